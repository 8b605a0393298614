"""Perturbed codes are near ones, in the images that were asked for, and in training only."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.perturbed import PerturbedVQ, drawn_neighbours


def latents(batch: int = 10, width: int = 4) -> dict[str, Stream]:
    return {"main": Stream(torch.randn(batch, 30, width), (5, 6))}


def changed(quantizer: PerturbedVQ, given: dict[str, Stream]) -> torch.Tensor:
    """[B, N], True where the handed-on vector is not the nearest code."""
    out = quantizer(given)
    nearest = quantizer.lookup(out.indices["main"])
    return (out.codes["main"].x_BND - nearest).abs().amax(dim=-1) > 1e-5


def test_the_first_images_of_a_batch_and_no_others() -> None:
    quantizer = PerturbedVQ(dim=4, codebook_size=50, share=0.3, nearest=20).train()
    different = changed(quantizer, latents())
    assert different[:3].float().mean() == pytest.approx(19 / 20, abs=0.1)  # one draw in twenty is the code itself
    assert not different[3:].any()
    assert not changed(quantizer.eval(), latents()).any()


def test_every_one_of_the_nearest_codes_and_no_other() -> None:
    z, codebook = torch.randn(1, 3), torch.randn(40, 3)
    drawn = drawn_neighbours(z.expand(4000, 3), codebook, 5)
    nearest = torch.cdist(z.double(), codebook.double())[0].argsort()[:5]
    assert set(drawn.tolist()) == set(nearest.tolist())
    assert drawn.bincount().max() < 1000  # each 800 times, give or take


def test_chance_and_neighbours_shrink_between_the_annealing_updates() -> None:
    quantizer = PerturbedVQ(dim=4, codebook_size=50, share=1.0, nearest=40, anneal=[100, 200]).train()
    expected = {0: 39 / 40, 150: 0.75 * 29 / 30, 200: 0.5 * 19 / 20, 999: 0.5 * 19 / 20}
    for update, share in expected.items():
        quantizer.set_update(update)
        given = latents(batch=40)
        assert changed(quantizer, given).float().mean() == pytest.approx(share, abs=0.05), update


def test_losses_and_indices_are_those_of_the_nearest_code() -> None:
    given = latents()
    plain = PerturbedVQ(dim=4, codebook_size=50, share=0.0, nearest=20).train()
    perturbed = PerturbedVQ(dim=4, codebook_size=50, share=1.0, nearest=20).train()
    perturbed.load_state_dict(plain.state_dict())
    a, b = plain(given), perturbed(given)
    assert torch.equal(a.indices["main"], b.indices["main"])
    for name in a.losses:
        assert torch.equal(a.losses[name], b.losses[name])


def test_gradients_pass_straight_through() -> None:
    quantizer, given = PerturbedVQ(dim=4, codebook_size=50, share=1.0, nearest=20).train(), latents()
    given["main"].x_BND.requires_grad_()
    weight = torch.randn(10, 30, 4)
    (quantizer(given).codes["main"].x_BND * weight).sum().backward()
    torch.testing.assert_close(given["main"].x_BND.grad, weight)


@pytest.mark.parametrize(
    ("setting", "value"), [("share", 1.5), ("chance", -0.1), ("nearest", 65), ("anneal", [5, 5]), ("end_ratio", 2.0)]
)
def test_nonsense_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        PerturbedVQ(dim=4, codebook_size=64, **{"nearest": 8, setting: value})
