"""The discriminator's learning rate, update by update, against its closed form counted by hand."""

import inspect
import math

import pytest
import torch
from torch import nn

from imtok.training.optim.optimizers import LearningRate, OptimizerSettings
from imtok.training.optim.stepper import Network, Stepper

OWN = {"name": "adam", "lr": 1.0, "schedule": {"shape": "cosine", "warmup": 2, "min_ratio": 0.1}}
LATE = {"start": 4, "discriminator_warmup": 1}  # first trained in update 3 of 9: six updates of its own


def rates_of(run, name: str = "adversary") -> dict[int, float]:
    """{update: learning rate of the steps that were made}."""
    seen: dict[int, float] = {}
    configure = run.training.configure_optimizers

    def watched() -> list[torch.optim.Optimizer]:
        optimizers = configure()
        stepper = run.training.steppers[name]
        stepper.optimizer.register_step_pre_hook(lambda *_: seen.__setitem__(run.training.update, stepper.lr))
        return optimizers

    run.training.configure_optimizers = watched
    run.fit()
    return seen


def cosine(done: int, of: int) -> float:
    return 0.1 + 0.9 * (1 + math.cos(math.pi * done / of)) / 2


def test_a_late_discriminator_warms_up_and_decays_from_its_first_update(make_run):
    seen = rates_of(make_run(adversary={**LATE, "optimizer": OWN}, max_updates=9))
    assert list(seen) == [3, 4, 5, 6, 7, 8]
    assert list(seen.values()) == pytest.approx([0.5, 1.0, *(cosine(n, of=4) for n in range(4))])


@pytest.mark.parametrize(
    ("own_clock", "expected"),
    [(True, [0.5, 1.0, *(cosine(n, of=4) for n in range(4))]), (False, [cosine(n, of=7) for n in range(1, 7)])],
    ids=["its own clock", "the run's"],
)
def test_the_generator_s_node_on_either_clock(make_run, own_clock, expected):
    run = make_run(adversary={**LATE, "own_clock": own_clock}, optimizer=OWN, max_updates=9)
    assert list(rates_of(run).values()) == pytest.approx(expected)


def test_the_generator_counts_from_the_first_update(make_run):
    seen = rates_of(make_run(adversary=LATE, optimizer=OWN, max_updates=9), "generator")
    assert list(seen.values()) == pytest.approx([0.5, 1.0, *(cosine(n, of=7) for n in range(7))])


def test_resumed_before_and_after_its_first_update(make_run):
    how = {"adversary": {**LATE, "optimizer": OWN}, "max_updates": 9, "checkpoint_every": 1}
    whole = make_run("whole", keep_checkpoints=9, **how)
    seen = rates_of(whole)
    for update in (2, 5):
        ckpt = whole.folder / "checkpoints" / f"update_{update:08d}.ckpt"
        again = make_run(f"from {update}", ckpt=ckpt, **how)
        assert rates_of(again) == {n: rate for n, rate in seen.items() if n >= update}
        for name, value in whole.training.state_dict().items():
            assert torch.equal(again.training.state_dict()[name], value), name


def test_a_discriminator_whose_turn_never_comes(make_run):
    assert rates_of(make_run(adversary={"start": 9, "optimizer": OWN}, max_updates=3)) == {}


def test_fragments_of_the_generator_s_names_do_not_reach_the_discriminator(make_run):
    adamw = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "no_decay": ["encoder.", "decoder."], "decay": "all"}
    run = make_run(adversary={"start": 0}, optimizer=adamw, max_updates=1).fit()
    decayed = {
        name: {id(p) for g in s.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        for name, s in run.training.steppers.items()
    }
    assert decayed["generator"] == {id(p) for p in run.tokenizer.quantizer.parameters()}
    assert decayed["adversary"] == {id(p) for p in run.training.adversary.parameters()}


def a_stepper(*, clip=None, scaler=None, lr: float = 0.5, **node) -> tuple[nn.Parameter, Stepper]:
    module = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(module.weight)
    network = Network(node={"name": "sgd", "lr": lr} | node, modules=[module])
    return module.weight, Stepper(network, max_updates=4, clip=clip, scaler=scaler)


@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("clip", [None, 1.0, 10.0])
def test_one_step_in_closed_form(clip, scale):
    """The gradient is (3, 4), of norm 5."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1) if scale else None
    weight, stepper = a_stepper(clip=clip, scaler=scaler)
    loss = (weight * torch.tensor([[3.0, 4.0]])).sum()
    stepper.scaled(loss).backward()
    assert weight.grad.tolist() == [[3.0 * (scale or 1), 4.0 * (scale or 1)]]
    assert float(stepper.finish_gradients()) == pytest.approx(5.0)
    stepper.clip_gradients()
    stepper.step(stepper.optimizer, finite=True)
    moved = 0.5 * min(1.0, (clip or 99) / 5)
    assert weight.tolist()[0] == pytest.approx([-3 * moved, -4 * moved], rel=1e-4)
    assert scaler is None or scaler.get_scale() == 2048.0, "it grows after each good update"


def test_without_a_finite_update_only_the_loss_scale_moves():
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    weight, stepper = a_stepper(scaler=scaler)
    stepper.scaled(weight.sum() * float("inf")).backward()
    stepper.finish_gradients()
    stepper.step(stepper.optimizer, finite=False)
    assert weight.tolist() == [[0.0, 0.0]] and scaler.get_scale() == 512.0


def test_means_and_loss_scale_come_back_and_settings_stay_as_they_are_now():
    old_weight, old = a_stepper(scaler=torch.amp.GradScaler("cpu", init_scale=64.0), momentum=0.9)
    old.scaled(old_weight.sum()).backward()
    old.finish_gradients()
    old.step(old.optimizer, finite=True)
    weight, new = a_stepper(scaler=torch.amp.GradScaler("cpu", init_scale=2.0), momentum=0.5, lr=0.25)
    new.scaled(weight.sum())  # the scale is a tensor from here on
    new.load_state_dict(old.state_dict())
    (group,) = new.optimizer.param_groups
    assert (group["lr"], group["momentum"], new.lr, new.scaler.get_scale()) == (0.25, 0.5, 0.25, 64.0)
    assert new.optimizer.state[weight]["momentum_buffer"].tolist() == [[1.0, 1.0]]
    _, plain = a_stepper(momentum=0.5)
    plain.load_state_dict(old.state_dict())
    new.load_state_dict(plain.state_dict())
    assert plain.state_dict()["scaler"] is None and new.scaler.get_scale() == 64.0


def test_settings_have_names_and_stay():
    for cls in (Network, LearningRate, OptimizerSettings):
        assert cls.__dataclass_params__.frozen
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(cls).parameters.values())
