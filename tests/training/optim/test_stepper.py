"""The discriminator's learning rate, update by update, against its closed form counted by hand."""

import math

import pytest
import torch

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
