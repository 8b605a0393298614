"""Images per second, the share of time spent waiting for data, peak memory, and model FLOPs utilisation on CUDA."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.flop_counter import FlopCounterMode

from ..module import TokenizerTraining
from ..randomness import own_randomness

# Dense bf16 / fp16 tensor-core peaks of NVIDIA's data sheets, FLOP/s.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12, "V100": 125e12}


class Throughput(Callback):
    """Validation, samples and checkpoints are not counted, nor is the first update, which warms everything up."""

    def __init__(self) -> None:
        self.images, self.computing, self.waiting = 0, 0.0, 0.0
        self.started = 0.0
        self.flops_per_image: float | None = None

    def on_train_batch_start(self, trainer: Trainer, training: TokenizerTraining, batch: Any, batch_idx: int) -> None:
        self.started = time.perf_counter()
        if training.batch_ended_at:
            self.waiting += self.started - training.batch_ended_at

    def on_train_batch_end(
        self, trainer: Trainer, training: TokenizerTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if training.batch_ended_at:
            self.computing += time.perf_counter() - self.started
            self.images += len(batch["image"]) * trainer.world_size
        if not (training.logs_now and self.images):
            return
        seconds = self.computing + self.waiting
        values = {"train/images_per_second": self.images / seconds, "train/data_wait": self.waiting / seconds}
        if training.device.type == "cuda":
            values["train/peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            values |= self._utilisation(training, batch["image"][:1], self.images / seconds / trainer.world_size)
        self.images, self.computing, self.waiting = 0, 0.0, 0.0
        training.report(values)

    def _utilisation(
        self, training: TokenizerTraining, image: torch.Tensor, images_per_second: float
    ) -> dict[str, float]:
        """The tokenizer's own forward and backward only, counted as three forwards; losses and adversary are extra."""
        peak = next((v for name, v in PEAKS.items() if name in torch.cuda.get_device_name()), None)
        if peak is None or training.precision.name == "fp32":
            return {}
        if self.flops_per_image is None:
            self.flops_per_image = 3.0 * forward_flops(training, image)
        return {"train/mfu": self.flops_per_image * images_per_second / peak}


def forward_flops(training: TokenizerTraining, image: torch.Tensor) -> int:
    """Of the tokenizer for these images; counted in what torch.compile was given, as its kernels hide from counters."""
    training.eval()
    with (
        own_randomness(0),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False) as counter,
    ):
        training.tokenizer(image)
    training.train()
    return counter.get_total_flops()
