"""Fake tensors (shapes without data) to estimate the memory and FLOPs of an update."""

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...common.frozen import modules_within
from ...common.types import Latents, Quantized, Stream, has_values
from ...tokenizers.quantizers.base import Quantizer


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there were at once. Tensors made before are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def ignore(self, tensors: Iterator[Tensor]) -> None:
        for tensor in tensors:
            self.known.add(tensor.untyped_storage())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage not in self.known:
                    self.known.add(storage)
                    size = storage.nbytes()
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, size)
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


class ShapesOnlyQuantizer(nn.Module):
    """Stands in for a quantizer whose training step looks at values (revival, k-means), which fake tensors have not.

    Its forward is the real one in eval mode; what training adds (running means, revival) is not counted.
    """

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.real = quantizer.eval()
        self.loss_names = quantizer.loss_names

    def train(self, mode: bool = True) -> "ShapesOnlyQuantizer":
        return super().train(False)

    def set_update(self, update: int) -> None: ...

    def forward(self, latents: Latents) -> Quantized:
        quantized = self.real(latents)
        link = torch.stack([stream.x_BND.float().sum() for stream in latents.values()]).sum() * 0
        codes = {n: Stream(s.x_BND + link, s.grid, s.mask_BN) for n, s in quantized.codes.items()}
        return Quantized(codes, quantized.indices, dict.fromkeys(self.loss_names, link))


def make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces all parameters and buffers, those of frozen networks included."""
    for part in modules_within(module):
        for name, p in part._parameters.items():
            if p is not None and has_values(p):
                part._parameters[name] = nn.Parameter(mode.from_tensor(p.detach()), requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None and has_values(b):
                part._buffers[name] = mode.from_tensor(b.detach())
