"""One process of test_ddp.py: toy runs, what they reduced, and what they ended with.

    python two_processes.py RANK WORLD FOLDER

WORLD=2: rank RANK sees its half of every batch. WORLD=1: one process, the joined batch, and nothing is reduced.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from conftest import Run, ToyData
from lightning.pytorch import Callback
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from imtok.common.errors import UserError
from imtok.training.compiling import compile_parts

UPDATES, IMAGES = 5, 4
PATCHGAN = {"_target_": "imtok.losses.adversarial.patchgan.PatchGAN", "ndf": 8, "n_layers": 1}
# Batch norm knows its own process's images only.
ADVERSARY = {"start": 1, "discriminator_warmup": 1, "discriminator": PATCHGAN | {"norm": "none"}}
ADAPTIVE = {"adaptive": {"_target_": "imtok.losses.adversarial.adaptive_weight.AdaptiveWeight"}}
RUNS = (("whole", 1, {}), ("in micro-batches", 2, {}), ("adaptive", 1, ADAPTIVE), ("compiled", 1, ADAPTIVE))


class Share(ToyData):
    """Of every batch the part of this rank."""

    def __init__(self, *, rank: int, world: int, micro_batches: int) -> None:
        self.rank, self.world = rank, world
        super().__init__(batch_size=IMAGES // world // micro_batches)

    def begin_at(self, start_sample: int, *, num_batches: int = 0, max_val_images: int | None = None) -> None:
        count = num_batches * self.batch_size * self.world
        numbers = torch.arange(start_sample, start_sample + count).view(-1, self.world, self.batch_size)
        self.numbers, self.max_val_images = numbers[:, self.rank].flatten().tolist(), max_val_images


class Counts(Callback):
    """By update: bytes that each network's DDP reduced, and the collectives besides."""

    def __init__(self) -> None:
        self.bytes: list[Counter] = []
        self.others: list[Counter] = []

    def on_train_start(self, trainer: Any, training: Any) -> None:
        self.parts = dict(training.trained)
        for name, part in self.parts.items():
            if hasattr(part, "ddp"):
                part.ddp.register_comm_hook(name, self._reduce)

    def _reduce(self, name: str, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.bytes[-1][name] += bucket.buffer().nbytes
        return allreduce_hook(None, bucket)

    def on_train_batch_start(self, trainer: Any, training: Any, *_: Any) -> None:
        if training.micro_batch == 0:
            self.bytes.append(Counter())
            self.others.append(Counter())


def watched(counts: Counts) -> None:
    """Every collective that Python code asks for; DDP's own are asked for in C++."""
    for name in ("all_reduce", "broadcast", "all_gather", "all_gather_object", "barrier"):
        real = getattr(dist, name)

        def called(tensor: Any = None, *given: Any, name: str = name, real: Any = real, **more: Any) -> Any:
            if counts.others and not more.get("async_op"):  # those are of `_reduce`
                counts.others[-1][name] += 1
            return real(*([] if tensor is None else [tensor]), *given, **more)

        setattr(dist, name, called)


def finish(folder: Path, *, rank: int, world: int, accumulate: int, compiled: bool, **how: Any) -> dict[str, Any]:
    counts = Counts()
    run = Run(
        folder,
        adversary=ADVERSARY | how,
        data=Share(rank=rank, world=world, micro_batches=accumulate),
        quantizer={"revive_below": 0.0},
        optimizer={"name": "sgd", "lr": 0.05},
        callbacks=(counts,),
        max_updates=UPDATES,
        accumulate=accumulate,
        log_every=100,
        checkpoint_every=100,
    )
    if compiled:
        compile_parts(run.tokenizer, run.training.adversary, backend="aot_eager")
    watched(counts)
    run.fit()
    training = run.training
    state = {**training.tokenizer.state_dict(), **training.adversary.state_dict()}
    sizes = {
        name: sum(p.numel() * p.element_size() for p in stepper.parameters)
        for name, stepper in training.steppers.items()
    }
    return {"state": state, "bytes": counts.bytes, "others": counts.others, "sizes": sizes}


def unused(folder: Path, *, until: int) -> dict[str, Any]:
    """A parameter that the loss depends on in the first `until` updates only."""
    counts = Counts()
    settings = {"max_updates": 4, "log_every": 100, "strategy": "ddp"}
    run = Run(folder, quantizer={"revive_below": 0.0}, callbacks=(counts,), **settings)
    extra = run.tokenizer.decoder.extra = torch.nn.Parameter(torch.ones(()))
    seen = []

    def add(_: Any, __: Any, output: Any) -> Any:
        seen.append(float(extra.detach()))
        if run.training.update < until:
            output.reconstruction = output.reconstruction + extra
        return output

    run.tokenizer.register_forward_hook(add)
    try:
        run.fit()
    except UserError as error:
        return {"error": str(error), "seen": seen}
    assert not run.training.trained, "memory for gradients is given back"
    return {"error": "", "seen": seen, "search": counts.parts["generator"].search}


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name, accumulate, how in RUNS:
        own = folder / f"{name}{rank}of{world}"
        own.mkdir()
        results[name] = finish(own, rank=rank, world=world, accumulate=accumulate, compiled=name == "compiled", **how)
    if world > 1:
        results["never used"] = unused(folder, until=0)
        results["used at first"] = unused(folder, until=2)
    torch.save(results, folder / f"{rank}of{world}.pt")


if __name__ == "__main__":
    os.environ |= {"RANK": sys.argv[1], "LOCAL_RANK": sys.argv[1], "WORLD_SIZE": sys.argv[2]}
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
