"""Numbers to all loggers, images to those that take them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def log_values(trainer: Any, values: Mapping[str, float], *, update: int) -> None:
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=update)


def log_picture(trainer: Any, name: str, path: Path, *, update: int) -> None:
    """A PNG on disk, to TensorBoard and wandb where they were chosen."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):  # wandb
            logger.log_image(key=name, images=[str(path)], step=update)
        elif hasattr(getattr(logger, "experiment", None), "add_image"):  # TensorBoard
            import numpy as np
            from PIL import Image

            logger.experiment.add_image(name, np.asarray(Image.open(path)), update, dataformats="HWC")
