"""Settings of the trainer: the smallest that work, and one less."""

import pytest

from imtok.training.settings import TrainerSettings

LEAST = {
    "max_updates": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 0,
    "validate_every": 1,
    "val_images": 1,
    "log_every": 1,
    "accumulate": 1,
    "max_nonfinite": 1,
    "threads": 1,
    "devices": 1,
}


@pytest.mark.parametrize(("name", "least"), LEAST.items())
def test_the_least_is_taken_and_less_is_refused(name: str, least: int) -> None:
    assert getattr(TrainerSettings(**({"max_updates": 9} | {name: least})), name) == least
    with pytest.raises(ValueError, match=rf"{name}={least - 1}: "):
        TrainerSettings(**({"max_updates": 9} | {name: least - 1}))


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_gradients_are_clipped_above_zero_or_not_at_all(clip: float) -> None:
    with pytest.raises(ValueError, match="clip="):
        TrainerSettings(max_updates=1, clip=clip)
    assert TrainerSettings(max_updates=1, clip=None).clip is None
    assert TrainerSettings(max_updates=1, clip=1e-9).clip == 1e-9
