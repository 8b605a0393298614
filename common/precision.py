"""Which arithmetic the device at hand is fast in, autocast to it, and a loss scale for fp16.

Parameters stay fp32; Lightning's own precision is off.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .distributed import is_sharded, own_shard, sum_over_processes
from .errors import UserError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TENSOR_CORES = {
    "bf16": (8, 0),
    "fp16": (7, 0),
    "tf32": (8, 0),
}  # CUDA compute capability from which they multiply this type


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """`trainer.precision`, `channels_last` and `tf32` as they are on this machine; `line` says it to the user."""

    precision: str
    channels_last: bool
    tf32: bool
    line: str


def chosen_arithmetic(*, precision: str, channels_last: bool | str, accelerator: str, tf32: bool = False) -> Arithmetic:
    device = device_type(accelerator)
    units, why = "this CPU" if device == "cpu" else device, ""
    if device == "cuda" and torch.cuda.is_available():
        units = torch.cuda.get_device_name()
    if precision == "auto":
        precision = "bf16" if has_matrix_units("bf16", device) else "fp32"
        why = f" (auto: {units} has {'' if precision == 'bf16' else 'no '}bf16 matrix units)"
    elif device == "cpu" and precision != "fp32" and not has_matrix_units(precision, device):
        why = f"; {units} has no {precision} matrix units, so this is slower than trainer.precision=fp32 here"
    if not isinstance(channels_last, bool):  # auto
        channels_last = precision != "fp32" and has_matrix_units(precision, device)
    layout = "channels_last" if channels_last else "plain layout"
    tf32 = tf32 and has_matrix_units("tf32", device)
    line = f"{precision}, {layout}{', TF32 for fp32' if tf32 else ''} on {device}{why}"
    return Arithmetic(precision=precision, channels_last=channels_last, tf32=tf32, line=line)


def device_type(accelerator: str) -> str:
    """What Lightning will choose."""
    if accelerator in ("gpu", "cuda"):
        return "cuda"
    if accelerator != "auto":
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_matrix_units(precision: str, device: str) -> bool:
    """bf16 on a CPU without them is emulated: measured 8 to 12 times slower than fp32 (AMD EPYC)."""
    if device == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= TENSOR_CORES[precision]
    if device != "cpu":
        return False
    if precision == "tf32":
        return False
    if precision == "bf16" and hasattr(torch.cpu, "_is_amx_tile_supported"):
        return bool(torch.cpu._is_amx_tile_supported())
    try:
        return f"amx_{precision}" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


@contextmanager
def tf32(on: bool, device: torch.device) -> Iterator[None]:
    """Whether products and convolutions of fp32 tensors round what they read to ten bits on CUDA; put back after."""
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, matmul)
        torch.set_float32_matmul_precision("high" if on and device.type == "cuda" else "highest")
        if device.type == "cuda":
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", convolutions)
            torch.backends.cudnn.allow_tf32 = on
        yield


def autocast_of(precision: str, device: torch.device) -> AbstractContextManager:
    """For a part of a training: "fp32" turns the run's autocast off, "auto" leaves it as it is."""
    return torch.autocast(device.type, enabled=False) if precision == "fp32" else nullcontext()


class LossScaler(torch.amp.GradScaler):
    """torch's, which also takes gradients of which each process has a share: an overflow in one counts for all."""

    def _unscale_grads_(
        self, optimizer: torch.optim.Optimizer, inv_scale: Tensor, found_inf: Tensor, allow_fp16: bool
    ) -> dict[torch.device, Tensor]:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not any(map(is_sharded, gradients)):
            return super()._unscale_grads_(optimizer, inv_scale, found_inf, allow_fp16)
        device = gradients[0].device
        found = found_inf.to(device)
        shares = [share for g in gradients if (share := own_shard(g)).numel()]
        torch._amp_foreach_non_finite_check_and_unscale_(shares, found, inv_scale.to(device))
        return {device: sum_over_processes(found, "MAX")}


class Precision:
    """name: fp32, bf16 or fp16."""

    def __init__(self, *, name: str, device: torch.device) -> None:
        self.name, self.device, self.dtype = name, device, DTYPES[name]
        if self.dtype is not None:
            self._try()

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.dtype) if self.dtype else nullcontext()

    def scaler(self) -> torch.amp.GradScaler | None:
        """One an optimizer: an overflow in the discriminator must not shrink the generator's scale."""
        return LossScaler(self.device.type) if self.dtype is torch.float16 else None

    def _try(self) -> None:
        """A convolution and a product, there and back, before the first batch does."""
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                probe = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).to(self.device)
            with torch.random.fork_rng(devices=[]), self.autocast():
                probe(torch.zeros(1, 3, 8, 8, device=self.device)).float().sum().backward()
        except (RuntimeError, NotImplementedError, TypeError) as error:
            works = "fp32" if self.name == "bf16" else "bf16 or fp32"
            raise UserError(
                f"trainer.precision={self.name}: {self.device.type} here cannot compute in it ({error}); use {works}"
            ) from error
