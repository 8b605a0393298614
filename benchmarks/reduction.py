"""What averaging gradients over processes adds to an update: updates with and without it, in turns."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from ..common.arguments import whole_number
from ..common.errors import UserError
from ..common.precision import tf32
from .timing import print_result, ratio

WARM_UP = 2  # rounds; DDP sees in the first what has a gradient, and lays its buckets anew in the second
REDUCED, ALONE = "update, gradients reduced", "update, each process alone"


def launch(words: Sequence[str], processes: int) -> int:
    """`imtok benchmark train` in so many processes on this machine, of which the first one prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    world |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "benchmark"}
    started = []
    for rank in map(str, range(processes)):
        own = os.environ | world | {"RANK": rank, "LOCAL_RANK": rank}
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if rank != "0" else {}
        command = [sys.executable, "-m", "imtok.scripts.cli", "benchmark", "train", *words]
        started.append(subprocess.Popen(command, env=own, **silent))  # type: ignore[call-overload]
    try:
        code = started[0].wait()
        return code or max(process.wait() for process in started[1:])
    finally:
        for process in started:  # a process that failed leaves the others waiting
            process.kill()


class TakeTurns(Callback):
    """Every other update is each process's own. Counts what is reduced in the others, by DDP's hook."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {REDUCED: [], ALONE: []}
        self.bytes, self.messages = Counter[str](), Counter[str]()

    def on_train_start(self, trainer: Any, training: Any) -> None:
        from imtok.training.objectives import InOneProcess

        self.kinds = {REDUCED: training.trained}
        self.kinds[ALONE] = {name: InOneProcess(part.objective) for name, part in training.trained.items()}

    def on_train_batch_start(self, trainer: Any, training: Any, batch: Any, batch_idx: int) -> None:
        self.kind = (REDUCED, ALONE)[batch_idx % 2]
        training.trained = self.kinds[self.kind]
        for name, part in self.kinds[REDUCED].items() if batch_idx == 2 * WARM_UP else ():
            part.ddp.register_comm_hook(name, self._reduce)
        dist.barrier()
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, training: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if training.device.type == "cuda":
            torch.cuda.synchronize(training.device)
        if batch_idx >= 2 * WARM_UP:
            self.seconds[self.kind].append(time.perf_counter() - self.started)

    def _reduce(self, network: str, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.bytes[network] += bucket.buffer().nbytes
        self.messages[network] += 1
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]


def benchmark_reduction(settings: Mapping[str, str], overrides: Sequence[str]) -> dict[str, Any]:
    """In one of the processes that `launch` has started."""
    from imtok.training.ddp import PerNetworkDDP
    from imtok.training.factory import build_trainer, build_training

    from .update import composed

    rounds, batch = whole_number(settings, "rounds", 5), whole_number(settings, "batch", 2)
    processes = int(os.environ["WORLD_SIZE"])
    config = composed(settings, overrides, updates=2 * (rounds + WARM_UP), batch=batch * processes)
    with tempfile.TemporaryDirectory() as folder:
        training, data = build_training(config, Path(folder))
        turns = TakeTurns()
        trainer = build_trainer(training.settings, loggers=[], callbacks=[turns], folder=Path(folder))
        if not isinstance(trainer.strategy, PerNetworkDDP):
            raise UserError(f"trainer.strategy={training.settings.strategy}: processes= measures DDP; leave it at auto")
        with tf32(training.settings.tf32, trainer.strategy.root_device):
            trainer.fit(training, datamodule=data)
    ratios = {"reduced / alone": ratio(turns.seconds[REDUCED], turns.seconds[ALONE])}
    counts = {
        name: {
            "gradients": sum(p.numel() * p.element_size() for p in stepper.parameters),
            "bytes": turns.bytes[name] // rounds,
            "messages": turns.messages[name] // rounds,
        }
        for name, stepper in training.steppers.items()
    }
    if int(os.environ["RANK"]) == 0:
        height, width = training.tokenizer.image_size
        what = f"{processes} processes ({dist.get_backend()}), batch {batch} of {height}x{width} each"
        print_result(f"train: {config['name']}, {what}, {rounds} rounds", turns.seconds, ratios)
        for name, count in counts.items():
            sizes = f"{count['bytes'] / 2**20:9.2f} MiB in {count['messages']} messages an update"
            print(f"  {name + ' reduced':<34} {sizes} ({count['gradients'] / 2**20:.2f} MiB of gradients)")
    return {"seconds": turns.seconds, "ratios": ratios, "counts": counts}
