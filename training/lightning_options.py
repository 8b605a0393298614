"""trainer.lightning: arguments of lightning.Trainer that the `trainer` node has no name for (profiler, ...)."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from ..common.errors import UserError, did_you_mean

# Arguments that imtok sets, and the key that does the same; without one there is nothing to choose.
SET_BY_IMTOK = {
    "accelerator": "trainer.accelerator",
    "accumulate_grad_batches": "trainer.accumulate",
    "barebones": "",
    "callbacks": "callbacks",
    "check_val_every_n_epoch": "trainer.validate_every",
    "default_root_dir": "hydra.run.dir",
    "devices": "trainer.devices",
    "enable_checkpointing": "callbacks=[checkpoint]",
    "enable_progress_bar": "callbacks=[progress]",
    "fast_dev_run": "debug=tiny",
    "gradient_clip_algorithm": "trainer.clip",
    "gradient_clip_val": "trainer.clip",
    "log_every_n_steps": "trainer.log_every",
    "logger": "logger",
    "max_epochs": "trainer.max_updates",
    "max_steps": "trainer.max_updates",
    "max_time": "trainer.max_time",
    "min_epochs": "",
    "min_steps": "",
    "num_nodes": "",  # torchrun says it
    "num_sanity_val_steps": "",
    "precision": "trainer.precision",
    "reload_dataloaders_every_n_epochs": "",
    "strategy": "trainer.strategy",
    "use_distributed_sampler": "",
    "val_check_interval": "trainer.validate_every",
}


def check_lightning_options(given: Mapping[str, Any] | None) -> None:
    """Each is an argument of lightning.Trainer that imtok does not set itself."""
    free = [n for n in inspect.signature(Trainer.__init__).parameters if n != "self" and n not in SET_BY_IMTOK]
    for name, value in (given or {}).items():
        if name in SET_BY_IMTOK:
            instead = f"; use {SET_BY_IMTOK[name]}" if SET_BY_IMTOK[name] else ""
            raise UserError(f"trainer.lightning.{name}={value}: imtok sets this argument itself{instead}")
        if name not in free:
            raise UserError(
                f"trainer.lightning.{name}={value}: lightning.Trainer has no such argument; {did_you_mean(name, free)}"
            )
