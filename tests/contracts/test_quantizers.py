"""What every quantizer promises, checked for every YAML in configs/tokenizer/quantizer: a new one needs no new test."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from imtok.configs.errors import UserError
from imtok.configs.instantiate import build, locate
from imtok.tokenizers.quantizers.base import Quantizer
from imtok.tokenizers.types import Quantized, Stream, StreamShape

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "tokenizer" / "quantizer"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
DIM, GRID = 16, (4, 6)
QUANTIZERS = "imtok.tokenizers.quantizers"
# Settings that cost memory or make an index too large, and those that are lists.
SIZES = ("codebook_size", "semantic_size", "sub_size", "codebooks", "stages", "parts", "groups", "bits", "code_dim")
SIZES += ("latent_dim", "levels", "components", "nearest", "phi_convs")
LISTS = ("levels", "scales", "anneal")
SHAPES = {"main": StreamShape(24, GRID)}


def make(name: str) -> Quantizer:
    node: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return build(node | node.get("tiny", {}), key="tokenizer.quantizer", dim=DIM)


def latents(batch: int = 3, *, dtype: torch.dtype = torch.float32) -> dict[str, Stream]:
    return {"main": Stream(torch.randn(batch, 24, DIM, dtype=dtype), GRID)}


def same_indices(one: Quantized, other: Quantized) -> bool:
    return set(one.indices) == set(other.indices) and all(
        torch.equal(one.indices[k], other.indices[k]) for k in one.indices
    )


def test_there_are_some() -> None:
    assert {"vq", "ema_vq"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_indices_fit_the_declared_layout(name: str) -> None:
    quantizer = make(name).eval()
    out = quantizer(latents())
    layout = quantizer.index_layout(SHAPES)
    assert set(out.indices) == {s.stream for s in layout}  # none where the bottleneck is continuous
    for stream, indices in out.indices.items():
        segments = [s for s in layout if s.stream == stream]
        assert indices.dtype == torch.int64
        assert indices.shape == (3, sum(s.length for s in segments), len(segments[0].vocabulary))
        for part, segment in zip(indices.split([s.length for s in segments], dim=1), segments, strict=True):
            assert int(part.min()) >= 0
            assert bool((part.amax(dim=(0, 1)) < torch.tensor(segment.vocabulary)).all())
    assert out.codes["main"].x_BND.shape == (3, 24, quantizer.out_dim)
    assert out.codes["main"].grid == GRID
    assert (quantizer.bits(SHAPES) > 0) == bool(layout)


@pytest.mark.parametrize("name", NAMES)
def test_indices_say_the_codes(name: str) -> None:
    quantizer = make(name).eval()
    out = quantizer(latents())
    if not quantizer.index_layout(SHAPES):
        with pytest.raises(ValueError, match="continuous"):
            quantizer.indices_to_codes(out.indices, SHAPES)
        return
    again = quantizer.indices_to_codes(out.indices, SHAPES)
    torch.testing.assert_close(again["main"].x_BND, out.codes["main"].x_BND)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_encoder_and_losses_are_declared(name: str) -> None:
    quantizer, given = make(name).train(), latents()
    given["main"].x_BND.requires_grad_()
    out = quantizer(given)
    assert set(out.losses) == set(quantizer.loss_names)
    (out.codes["main"].x_BND * torch.randn(3, 24, quantizer.out_dim)).sum().backward()
    assert float(given["main"].x_BND.grad.abs().sum()) > 0
    for loss in out.losses.values():
        assert loss.shape == ()
        assert bool(torch.isfinite(loss))


@pytest.mark.parametrize("name", NAMES)
def test_eval_repeats_itself(name: str) -> None:
    quantizer, given = make(name).eval(), latents()
    first, second = quantizer(given), quantizer(given)
    if not quantizer.stochastic:
        assert same_indices(first, second)
        assert torch.equal(first.codes["main"].x_BND, second.codes["main"].x_BND)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name: str) -> None:
    quantizer, given = make(name).eval(), latents()
    expected = quantizer(given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = quantizer(given)
        half = quantizer({"main": Stream(given["main"].x_BND.bfloat16(), GRID)})
    assert same_indices(actual, expected)
    assert torch.equal(actual.codes["main"].x_BND, expected.codes["main"].x_BND)
    assert half.codes["main"].x_BND.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing_on_cuda(name: str) -> None:
    quantizer, x = make(name).cuda(), latents()["main"].x_BND.cuda()
    quantizer.train()({"main": Stream(x, GRID)})
    quantizer.eval()
    expected = quantizer({"main": Stream(x, GRID)})
    with torch.autocast("cuda", dtype=torch.bfloat16):
        actual = quantizer({"main": Stream(x, GRID)})
    assert same_indices(actual, expected)
    assert torch.equal(actual.codes["main"].x_BND, expected.codes["main"].x_BND)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "gumbel_vq"])  # which draws its seed on the CPU
def test_training_never_waits_for_the_device(name: str) -> None:
    """Tensors without values refuse `item`, `bool`, `nonzero`, `bincount`: what would stall a GPU.

    Revival asks once how many codes are dead, PCA while it fits; both are off here.
    """

    def calm(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: 0 if k in ("revive_below", "fit_updates") else calm(v) for k, v in node.items()}
        return node

    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    with FakeTensorMode():
        quantizer = build(calm(node | node.get("tiny", {})), key="tokenizer.quantizer", dim=DIM).train()
        given = latents()
        given["main"].x_BND.requires_grad_()
        out = quantizer(given)
        (out.codes["main"].x_BND.sum() + sum(out.losses.values())).backward()


@pytest.mark.parametrize("name", NAMES)
def test_masked_tokens_have_index_minus_one_and_come_back_masked(name: str) -> None:
    quantizer, given = make(name).eval(), latents()
    mask = torch.rand(3, 24) > 0.3
    given["main"].mask_BN = mask
    layout = quantizer.index_layout(SHAPES)
    if layout and sum(s.length for s in layout) != 24:  # an index speaks of several tokens
        with pytest.raises(ValueError, match="masked"):
            quantizer(given)
        return
    out = quantizer(given)
    if not layout:
        assert torch.equal(out.codes["main"].mask_BN, mask)
        return
    assert torch.equal(out.indices["main"][..., 0] >= 0, mask)
    again = quantizer.indices_to_codes(out.indices, SHAPES)["main"]
    assert torch.equal(again.mask_BN, mask)
    torch.testing.assert_close(again.x_BND, out.codes["main"].x_BND)
    assert not bool(again.x_BND[~mask].any())


@pytest.mark.parametrize("name", NAMES)
def test_masked_tokens_count_for_nothing(name: str) -> None:
    """Losses, running means, revival and gradients are those of the tokens that are there, whatever the others hold."""
    quantizer = make(name).train()
    layout = quantizer.index_layout(SHAPES)
    if layout and sum(s.length for s in layout) != 24:
        pytest.skip("its indices speak of several tokens; it refuses masks")
    alone = deepcopy(quantizer)
    x, mask = latents()["main"].x_BND, torch.rand(3, 24) > 0.3
    x[~mask] = torch.nan
    x.requires_grad_()
    torch.manual_seed(1)
    out = quantizer({"main": Stream(x, GRID, mask)})
    torch.manual_seed(1)
    expected = alone({"main": Stream(x.detach()[mask][None])})
    torch.testing.assert_close(out.losses, expected.losses)
    if layout:
        assert torch.equal(out.indices["main"][mask], expected.indices["main"][0])
        assert bool((out.indices["main"][~mask] == -1).all())
    assert not bool(out.codes["main"].x_BND[~mask].any())
    torch.testing.assert_close(quantizer.state_dict(), alone.state_dict())
    (out.codes["main"].x_BND.sum() + sum(out.losses.values())).backward()
    assert bool(torch.isfinite(x.grad).all()) and not bool(x.grad[~mask].any()) and bool(x.grad[mask].any())


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_saving(name: str) -> None:
    quantizer, given = make(name), latents()
    quantizer.train()(given)
    copy = make(name)
    copy.load_state_dict(quantizer.state_dict())
    mine, copied = quantizer.eval()(given), copy.eval()(given)
    assert same_indices(mine, copied)
    assert torch.equal(mine.codes["main"].x_BND, copied.codes["main"].x_BND)


@pytest.mark.parametrize("name", NAMES)
def test_impossible_numbers_fail_at_build_with_their_key(name: str) -> None:
    """No setting of any quantizer may be negative, and no size may be 2^40: more than memory, or than an index."""
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    node |= node.get("tiny", {})
    for key, hint in get_type_hints(locate(node["_target_"], key="").__init__).items():
        if key in ("dim", "return") or not {"int", "float"} & set(re.findall(r"\w+", str(hint))):
            continue
        values = [-1, 2**40] if key in SIZES else [-1]
        for value in values:
            with pytest.raises(UserError, match=rf"^tokenizer\.quantizer\.{key}="):
                build(node | {key: [value] if key in LISTS else value}, key="tokenizer.quantizer", dim=DIM)


def test_a_learnable_codebook_has_no_running_means() -> None:
    for settings, complaint in (
        ({"_target_": f"{QUANTIZERS}.vq.VQ", "decay": 0.99}, "decay=0.99: VQ has no such setting"),
        ({"_target_": f"{QUANTIZERS}.ema_vq.EmaVQ", "learnable": True}, "learnable=True: EmaVQ has no such setting"),
        ({"_target_": f"{QUANTIZERS}.residual_vq.ResidualVQ", "decay": 0.99}, "decay=0.99: .* only update=ema"),
    ):
        with pytest.raises(UserError, match=rf"tokenizer\.quantizer\.{complaint}"):
            build(settings, key="tokenizer.quantizer", dim=DIM)


@pytest.mark.parametrize("name", NAMES)
def test_nonsense_width_fails_at_build(name: str) -> None:
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    with pytest.raises(ValueError, match=r"tokenizer\.quantizer\.dim=7"):
        build(node | {"dim": 7}, key="tokenizer.quantizer", dim=DIM)
