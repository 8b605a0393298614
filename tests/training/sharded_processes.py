"""One process of test_fsdp2.py: toy runs with and without sharding, and what they ended with.

python sharded_processes.py RANK WORLD FOLDER
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

import torch
from conftest import Run
from torch.distributed.checkpoint import FileSystemWriter
from two_processes import ADAPTIVE, PATCHGAN, Share

from imtok.common.distributed import is_sharded, own_shard
from imtok.training import fsdp2
from imtok.training.callbacks.samples import Samples
from imtok.training.callbacks.validation import Validation

UPDATES = 4
LECAM = {"lecam": {"_target_": "imtok.losses.adversarial.lecam.LeCam"}}
GAN = {"start": 1, "discriminator": PATCHGAN | {"norm": "none"}, **ADAPTIVE, **LECAM}
ADAMW = {"name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "betas": [0.5, 0.9], "eps": 1e-3}
SETTINGS: dict[str, Any] = {
    "adversary": GAN,
    "optimizer": ADAMW,
    "clip": 0.5,
    "ema": {"decay": 0.9},
    "validate_every": 2,
    "checkpoint_every": 2,
    "keep_checkpoints": 9,
    "max_updates": UPDATES,
}
COMPARED: dict[str, dict[str, Any]] = {
    "plain": {},
    "fp16": {"precision": "fp16"},
    "micro-batches": {"micro": 2},
    "frozen": {"freeze": ("encoder", "quantizer"), "losses": ("l1",)},
    "channels last": {"channels_last": True},
    "recomputed": {"checkpoint_activations": ["encoder", "decoder"]},
}


def go(folder: Path, *, rank: int, world: int, micro: int = 1, bad: tuple[int, ...] = (), **how: Any) -> Run:
    folder.mkdir(exist_ok=True)
    data = Share(rank=rank, world=world, micro_batches=micro)
    data.bad = frozenset(bad)
    channels_last = how.get("channels_last", False)
    parts = how.pop("checkpoint_activations", ())
    if micro > 1:
        how["accumulate"] = micro
    callbacks = (Validation(), Samples(every=2, images=2))
    run = Run(folder, data=data, callbacks=callbacks, **(SETTINGS | how))
    if parts:
        from imtok.training.recompute import checkpoint_activations

        checkpoint_activations(run.tokenizer, parts)
    if channels_last:
        for network in (run.tokenizer, run.training.adversary):
            network.to(memory_format=torch.channels_last)
    return run.fit()


def end_of(run: Run) -> dict[str, Any]:
    training = run.training
    whole = {n: t.full_tensor() if is_sharded(t) else t for n, t in training.ema.parameters.items()}
    held = [t for n, t in training.named_parameters()]
    return {
        "rows": run.rows,
        "state": fsdp2.whole_state(training),
        "ema": {name: tensor.cpu() for name, tensor in whole.items()},
        "skipped": training.guard.skipped,
        "failed": training.failed_writes,
        "scales": [s.scaler.get_scale() for s in training.steppers.values() if s.scaler],
        "held": sum(own_shard(t).numel() for t in held),
        "all": sum(t.numel() for t in held),
        # Rank 1 may be here before rank 0 has given the last one its name.
        "checkpoints": sorted(p.name for p in run.folder.glob("checkpoints/*")) if os.environ["RANK"] == "0" else None,
    }


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    fsdp2.SMALLEST_BLOCK = 100
    who: dict[str, int] = {"rank": rank, "world": world}
    results: dict[str, Any] = {}

    def finished(name: str, **how: Any) -> None:
        results[name] = end_of(go(folder / name, **who, **how))

    for name, how in COMPARED.items():
        for strategy in ("auto", "fsdp2"):
            finished(f"{name} {strategy}", strategy=strategy, **how)
    second = {s: folder / f"plain {s}" / "checkpoints" / "update_00000002.ckpt" for s in ("auto", "fsdp2")}
    finished("again", strategy="fsdp2", ckpt=second["fsdp2"])
    finished("file to shards", strategy="fsdp2", ckpt=second["auto"])
    finished("shards to file", strategy="auto", ckpt=second["fsdp2"])
    finished("bad", strategy="fsdp2", bad=(5,))  # of rank 0's second batch or rank 1's: an update is left out on both

    real = FileSystemWriter.write_data

    def write_data(self: Any, *given: Any) -> Any:
        if rank == 1 and "00000004" in str(self.path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *given)

    FileSystemWriter.write_data = write_data
    finished("disk of one process full", strategy="fsdp2")
    torch.save(results, folder / f"{rank}of{world}.pt")


if __name__ == "__main__":
    os.environ |= {"RANK": sys.argv[1], "LOCAL_RANK": sys.argv[1], "WORLD_SIZE": sys.argv[2]}
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
