import math

import pytest
import torch
from torch import nn

from imtok.common.errors import UserError
from imtok.training.optim.optimizers import build_optimizer, learning_rate, parameter_groups


def factors(total: int, **node) -> list[float]:
    schedule = learning_rate(node, total=total, key="optimizer.schedule")
    return [schedule(n) for n in range(total + 1)]


def test_schedules_have_their_closed_forms():
    assert factors(4) == [1.0] * 5
    assert factors(4, shape="linear", min_ratio=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(5)]
    assert factors(4, shape="cosine", min_ratio=0.1) == pytest.approx(cosine)
    assert factors(5, shape="step", drops=[2, 4], drop_factor=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert factors(8, shape="cosine", warmup=4)[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors(8, shape="cosine", warmup=4)[4] == 1.0
    assert factors(8, shape="cosine", warmup=4)[8] == pytest.approx(0.0)


def test_schedules_at_their_ends():
    assert factors(2, shape="step", drops=[1]) == pytest.approx([1.0, 0.1, 0.1])
    assert factors(3, shape="cosine", warmup=3) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert factors(4, shape="linear", length=8) == pytest.approx([1.0, 0.875, 0.75, 0.625, 0.5])
    for shape in ("cosine", "linear"):  # a run that goes on longer than was planned stays at the end
        assert learning_rate({"shape": shape, "min_ratio": 0.3}, total=4, key="x")(9) == pytest.approx(0.3)
    for node in (
        {"min_ratio": 1.1},
        {"min_ratio": -0.1},
        {"warmup": -1},
        {"every": 0},
        {"length": 0},
        {"warmup_start": 2},
        {"shape": "step"},
    ):
        with pytest.raises(UserError, match=rf"^x(\.|: )({'|'.join(node)}|drops)"):
            learning_rate(node, total=4, key="x")


def test_schedules_that_change_once_an_epoch_are_timms():
    """XQ-GAN's: 6 epochs of 5 updates, 2 of them warm-up from 1e-5, cosine to 5e-5 counted from the first epoch."""
    from timm.scheduler import create_scheduler_v2

    lr, epochs, updates = 2.4e-4, 6, 5
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=2,
        min_lr=5e-5,
        patience_epochs=0,
        updates_per_epoch=5,
    )
    theirs = []
    for epoch in range(epochs):
        theirs += [optimizer.param_groups[0]["lr"] / lr] * updates
        schedule.step(epoch + 1)
    node = {"shape": "cosine", "warmup": 10, "warmup_start": 1e-5 / lr, "warmup_within": True, "every": updates}
    assert factors(epochs * updates, min_ratio=5e-5 / lr, **node)[:-1] == pytest.approx(theirs)
    assert len(set(theirs)) == 6
    assert factors(4, shape="linear", warmup=2, warmup_within=True, min_ratio=0.0) == [0.5, 1.0, 0.5, 0.25, 0.0]


def test_settings_reach_the_optimizer_and_shared_parameters_count_once():
    layer = nn.Linear(2, 2)
    sgd = {"name": "sgd", "lr": 0.5, "momentum": 0.9, "nesterov": True, "betas": None}
    (group,) = build_optimizer(sgd, [layer, nn.Sequential(layer)], key="optimizer").param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.5, 0.9, True, 0.0)
    assert {id(p) for p in group["params"]} == {id(p) for p in layer.parameters()} and len(group["params"]) == 2
    adam = build_optimizer({"lr": 0.1, "betas": [0.5, 0.6], "eps": 1e-3}, [layer], key="optimizer")
    assert type(adam) is torch.optim.Adam
    assert (adam.param_groups[0]["betas"], adam.param_groups[0]["eps"]) == ((0.5, 0.6), 1e-3)
    with pytest.raises(UserError, match="nothing is left to train"):
        build_optimizer({"lr": 0.1}, [nn.Linear(2, 2).requires_grad_(False)], key="optimizer")


def test_decay_spares_norms_biases_embeddings_and_codebooks():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4), nn.Linear(4, 4), nn.Embedding(5, 4))
    net.codebook = nn.Parameter(torch.zeros(3, 2))
    decayed, kept = parameter_groups([net], weight_decay=0.1)
    assert {id(p) for p in decayed["params"]} == {id(net[0].weight), id(net[2].weight)}
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(kept["params"]) == len(list(net.parameters()))


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.table = nn.Linear(4, 4), nn.LayerNorm(4), nn.Embedding(5, 4)
        self.inner = nn.ModuleDict({"embed": nn.Linear(4, 2, bias=False)})
        self.codebook, self.scale = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(()))


MATRICES = {"patches.weight", "inner.embed.weight"}
ARRAYS = MATRICES | {"table.weight", "codebook"}
ALL = ARRAYS | {"patches.bias", "norm.weight", "norm.bias", "scale"}


@pytest.mark.parametrize(
    ("settings", "decayed"),
    [
        ({}, MATRICES),
        ({"decay": "arrays"}, ARRAYS),
        ({"decay": "all"}, ALL),
        ({"no_decay": ["patches"]}, {"inner.embed.weight"}),
        ({"no_decay": ["patches", "inner.embed"]}, set()),
        (
            {"decay": "all", "no_decay": ["norm.", "scale", "embed"]},
            ALL - {"norm.weight", "norm.bias", "scale"} - {"inner.embed.weight"},
        ),
        ({"decay": "all", "weight_decay": 0.0}, set()),
    ],
)
def test_who_decays(settings, decayed):
    net = ByHand()
    optimizer = build_optimizer({"name": "adamw", "lr": 1.0, "weight_decay": 0.1} | settings, [net], key="optimizer")
    decay_of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, p in net.named_parameters() if decay_of[id(p)] == 0.1} == decayed
    assert len(decay_of) == len(ALL) and set(decay_of.values()) <= {0.0, 0.1}


def test_a_frozen_parameter_keeps_its_fragment_known():
    net = ByHand()
    net.patches.requires_grad_(False)
    node = {"name": "adamw", "lr": 1.0, "weight_decay": 0.1, "no_decay": ["patches"]}
    groups = build_optimizer(node, [net], key="optimizer").param_groups
    assert id(net.patches.weight) not in {id(p) for g in groups for p in g["params"]}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"name": "adm", "lr": 1.0}, "did you mean 'adam'"),
        ({"name": "sgd", "lr": 1.0, "betas": [0, 1]}, "optimizer.betas=.*: sgd has no such setting"),
        ({"name": "adam", "lr": "1e-4"}, "optimizer.lr=1e-4: .* a number .*1.0e-4"),
        ({"name": "adam", "lr": 1.0, "weight_decay": -1}, "optimizer.weight_decay"),
        ({"name": "adam", "lr": 0.0}, "optimizer.lr=0.0: a number above 0"),
        ({"name": "adam", "lr": 1.0, "betas": [0.9]}, "optimizer.betas=.*: two numbers"),
        ({"name": "adam", "lr": 1.0, "betas": [0.9, 0.99, 0.999]}, "optimizer.betas=.*: two numbers"),
        ({"name": "sgd", "lr": 1.0, "nesterov": True}, "^optimizer: sgd refuses"),
        ({"name": "adam", "lr": 1.0, "decay": "al"}, "optimizer.decay=al: .* one of matrices, arrays, all"),
        (
            {"name": "adam", "lr": 1.0, "no_decay": ["fc1", "pacthes"]},
            r"optimizer.no_decay=\['fc1', 'pacthes'\]: no .* contains 'pacthes'; did you mean 'inner.patches'",
        ),
        ({"name": "adam", "lr": 1.0, "no_decay": [""]}, "no parameter's name contains ''"),
        ({"name": "adam", "lr": 1.0, "no_decay": "fc1"}, "optimizer.no_decay=fc1: .* a list"),
    ],
)
def test_a_wrong_setting_is_named(node, said):
    net = nn.ModuleDict({"inner": nn.ModuleDict({"fc1": nn.Linear(2, 2), "patches": nn.Linear(2, 2)})})
    with pytest.raises(UserError, match=said):
        build_optimizer(node, [net], key="optimizer")
