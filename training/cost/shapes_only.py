"""Helpers that estimate memory and FLOPs on tensors with shapes and no data."""

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...common.types import Latents, Quantized, Stream
from ...losses.total import WeightedLosses
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
        link = sum(stream.x_BND.float().sum() for stream in latents.values()) * 0
        codes = {n: Stream(s.x_BND + link, s.grid, s.mask_BN) for n, s in quantized.codes.items()}
        return Quantized(codes, quantized.indices, dict.fromkeys(self.loss_names, link))


def random_weights(node: Any) -> Any:
    """Nodes with every `weights:` set to random: a cost does not depend on values, and no file is needed."""
    if isinstance(node, Mapping):
        return {k: "random" if k == "weights" else random_weights(v) for k, v in node.items()}
    return node


def make_fake(losses: WeightedLosses, mode: FakeTensorMode) -> None:
    def fake(tensor: Tensor) -> Tensor:
        return mode.from_tensor(tensor.detach())

    for term in losses.terms.values():
        for part in (term, term.__dict__.get("net"), term.__dict__.get("network")):
            if isinstance(part, nn.Module) and not any(isinstance(t, FakeTensor) for t in part.buffers()):
                for child in part.modules():
                    for name, p in list(child._parameters.items()):
                        if p is not None:
                            child._parameters[name] = nn.Parameter(fake(p), requires_grad=p.requires_grad)
                    for name, b in list(child._buffers.items()):
                        if b is not None:
                            child._buffers[name] = fake(b)
