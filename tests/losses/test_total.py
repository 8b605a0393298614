from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from imtok.common.errors import UserError
from imtok.losses.total import WeightedLosses

LOSS_YAMLS = Path(__file__).parents[2] / "configs/loss"


def shipped(*names):
    """What `loss=[names]` composes to, without the rest of the config."""
    node = {}
    for name in names:
        node |= yaml.safe_load((LOSS_YAMLS / f"{name}.yaml").read_text())
    return node


def test_sum_raw_and_weighted(FakeTokenizer, output_of, images):
    node = shipped("l1", "codebook", "commit")
    node["l1"]["weight"] = {"start": 0.0, "end": 2.0, "updates": 4}
    losses = WeightedLosses.from_config(OmegaConf.create(node), FakeTokenizer())
    a, b = images(seed=1).requires_grad_(), images(seed=2)
    output = output_of(a, losses={"codebook": torch.tensor(3.0), "commit": torch.tensor(5.0)})

    values = losses({"image": b}, output, update=1)
    l1 = float((a - b).detach().abs().mean())
    assert float(values.raw["l1"]) == pytest.approx(l1)
    assert float(values.weighted["l1"].detach()) == pytest.approx(0.5 * l1)
    assert float(values.total.detach()) == pytest.approx(0.5 * l1 + 1.0 * 3 + 0.25 * 5)
    assert float(values.sum_of(["l1", "lpips"]).detach()) == pytest.approx(0.5 * l1)
    own = values.sum_of({"l1": 2.0, "commit": None, "lpips": 1.0, "codebook": 0.0})
    assert float(own.detach()) == pytest.approx(2.0 * l1 + 0.25 * 5)
    assert not values.raw["l1"].requires_grad and values.total.requires_grad
    values.total.backward()
    torch.testing.assert_close(a.grad, 0.5 * (a - b).sign().detach() / a.numel())


def test_weight_zero_is_computed_only_where_it_is_free(FakeTokenizer, output_of, images):
    node = shipped("l1", "l2", "commit")
    node["l1"]["weight"] = node["commit"]["weight"] = 0
    losses = WeightedLosses.from_config(node, FakeTokenizer(loss_names=("commit",)))
    calls = []
    losses.terms["l1"].register_forward_hook(lambda *_: calls.append("l1"))
    values = losses(
        {"image": images()}, output_of(images(seed=3), losses={"commit": torch.tensor(torch.inf)}), update=0
    )
    assert calls == []
    assert set(values.raw) == {"l2", "commit"} and set(values.weighted) == {"l2"}
    assert values.total.isfinite()  # 0 * inf did not get in


def test_eval_mode_does_without_the_quantizers_training_losses(FakeTokenizer, output_of, images):
    losses = WeightedLosses.from_config(shipped("l1", "commit"), FakeTokenizer(loss_names=("commit",)))
    values = losses.eval()({"image": images()}, output_of(images(seed=1)), update=0)
    assert set(values.raw) == {"l1"}
    with pytest.raises(AssertionError, match="commit"):
        losses.train()({"image": images()}, output_of(images(seed=1)), update=0)


def test_optional_terms_go_when_the_quantizer_is_swapped(FakeTokenizer, capsys):
    losses = WeightedLosses.from_config(shipped("l1", "codebook", "commit"), FakeTokenizer(loss_names=()))
    assert set(losses.terms) == {"l1"}
    assert "left out loss.codebook, loss.commit: tokenizer.quantizer" in capsys.readouterr().err
    assert len(losses.notes) == 1


def test_a_quantizer_loss_without_a_term_is_noted(FakeTokenizer):
    losses = WeightedLosses.from_config(shipped("l1", "commit"), FakeTokenizer(loss_names=("commit", "entropy")))
    assert len(losses.notes) == 1 and "'entropy'" in losses.notes[0]


def test_null_takes_a_term_away(FakeTokenizer):
    losses = WeightedLosses.from_config(shipped("l1", "l2") | {"l2": None}, FakeTokenizer())
    assert set(losses.terms) == {"l1"}


TERM = {"_target_": "imtok.losses.pixel.L1"}
QUANTIZER_TERM = {"_target_": "imtok.losses.quantizer.QuantizerTerm", "key": "entropy"}


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"entropy": {"term": QUANTIZER_TERM}}, ["loss.entropy.term.key=entropy", "codebook, commit"]),
        ({"l1": 0.5}, ["loss.l1=0.5", "loss.l1.weight"]),
        ({"l1": {"weigth": 1, "term": TERM}}, ["loss.l1.weigth=1", "'weight'"]),
        ({"lpips": {"weight": 0.5}}, ["loss.lpips.term", "loss=[...]"]),
        ({"l1": {"term": TERM | {"reduction": "sum"}}}, ["loss.l1.term.reduction=sum"]),
        (
            {"l1": {"term": {"_target_": "imtok.losses.pixel.Huber"}}},
            ["loss.l1.term._target_=imtok.losses.pixel.Huber"],
        ),
        ({"l1": {"term": {"_target_": "torch.nn.Identity"}}}, ["loss.l1.term._target_=torch.nn.Identity"]),
        ({"training": {"term": TERM}}, ["loss.training"]),
        ({"l1": {"weight": -1, "term": TERM}}, ["loss.l1.weight=-1", "0 or more"]),
        ({"l1": {"weight": {"start": 1, "end": -0.5, "updates": 9}, "term": TERM}}, ["loss.l1.weight=-0.5"]),
        ({"l1": None}, ["loss=['l1']"]),
    ],
)
def test_errors_are_one_line_and_name_the_key(FakeTokenizer, node, says):
    with pytest.raises(UserError) as caught:
        WeightedLosses.from_config(node, FakeTokenizer())
    assert "\n" not in str(caught.value)
    for part in says:
        assert part in str(caught.value)


def test_pixel_terms_need_a_picture(FakeTokenizer):
    with pytest.raises(UserError, match=r"loss\.l1: .*reconstruction"):
        WeightedLosses.from_config(shipped("l1"), FakeTokenizer(cheap=False))


def test_every_shipped_yaml_names_itself_and_builds(FakeTokenizer):
    tokenizer = FakeTokenizer(loss_names=("codebook", "commit", "entropy", "kl"))
    for path in LOSS_YAMLS.glob("*.yaml"):
        (name, entry), *rest = yaml.safe_load(path.read_text()).items()
        assert (name, rest) == (path.stem, [])
        if name in ("l1", "l2", "codebook", "commit", "entropy", "kl"):
            assert set(WeightedLosses.from_config({name: entry}, tokenizer).terms) == {name}
