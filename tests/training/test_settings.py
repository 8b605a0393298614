"""The smallest values that the `trainer` node takes, and how it refuses others."""

import inspect

import pytest

from imtok.common.build import build_as
from imtok.common.errors import UserError
from imtok.training.objectives import Objectives
from imtok.training.settings import TrainerSettings

NUMBERS = [
    "max_updates",
    "checkpoint_every",
    "validate_every",
    "val_images",
    "log_every",
    "accumulate",
    "max_nonfinite",
    "threads",
    "devices",
]


def settings(**given) -> TrainerSettings:
    return build_as(TrainerSettings, {"max_updates": 1} | given, key="trainer")


@pytest.mark.parametrize("name", [*NUMBERS, "keep_checkpoints"])
def test_the_least_of_each(name):
    least = 0 if name == "keep_checkpoints" else 1
    assert getattr(settings(**{name: least}), name) == least
    with pytest.raises(UserError, match=rf"^trainer\.{name}={least - 1}: a whole number, {least} or more$"):
        settings(**{name: least - 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_update": 5}, r"^trainer\.max_update=5: .*did you mean 'max_updates'"),
        ({"clip": 0.0}, r"^trainer\.clip=0\.0: .*above 0"),
        ({"clip": -1}, r"^trainer\.clip=-1: "),
        ({"precision": "fp8"}, r"^trainer\.precision=fp8: .*auto, fp32, bf16, fp16"),
        ({"channels_last": "yes"}, r"^trainer\.channels_last=yes: "),
        ({"ema": {"decay": 1.0}}, r"^trainer\.ema\.decay=1\.0: at least 0 and below 1"),
        ({"ema": {"every": 0}}, r"^trainer\.ema\.every=0: 1 or more"),
        ({"ema": {"dekay": 0.5}}, r"^trainer\.ema\.dekay=0\.5: .*did you mean 'decay'"),
        ({"ema": {"warmup": 3}}, r"^trainer\.ema\.warmup=3: .*true or false"),
    ],
)
def test_what_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        settings(**given)


def test_max_updates_is_needed():
    with pytest.raises(UserError, match=r"^trainer\.max_updates: TrainerSettings needs it"):
        build_as(TrainerSettings, {}, key="trainer")


def test_settings_have_names_and_stay():
    for cls in (TrainerSettings, Objectives):
        assert cls.__dataclass_params__.frozen
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(cls).parameters.values())
