"""What `imtok benchmark quantizers` measures: imtok's quantizers, and vector-quantize-pytorch's where it has them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One training step, or one forward, on the vectors `z`."""

    run: Callable[[], None]
    z: "Tensor"

    def __call__(self) -> None:
        self.run()


@dataclass(frozen=True)
class Case:
    """One row. Bars are for 8 x 256 tokens, fp32, two CPU threads."""

    name: str
    what: str
    dim: int
    ours: Callable[[], "nn.Module"]
    library: Callable[[], "nn.Module"] | None = None
    library_tokens: int | None = None  # what the library can hold; None: as many as ours
    backward: bool = True
    seconds: float | None = None
    mebibytes: float | None = None
    slow: bool = False  # many seconds a step: fewer rounds, no warm-up


def _made(target: str, **settings: Any) -> Callable[[], "nn.Module"]:
    """Imported when it is made: the command's help needs neither torch nor the library."""
    module, _, name = target.rpartition(".")
    return lambda: getattr(import_module(module), name)(**settings)


OURS = "imtok.tokenizers.quantizers"


def _lfq(bits: int) -> Callable[[], "nn.Module"]:
    return _made(f"{OURS}.lfq.LFQ", dim=bits, bits=bits)


def _vq(codes: int) -> Callable[[], "nn.Module"]:
    return _made(f"{OURS}.vq.VQ", dim=8, codebook_size=codes)


def _library_lfq(bits: int, groups: int = 1) -> Callable[[], "nn.Module"]:
    sizes = {"dim": bits * groups, "codebook_size": 2**bits, "num_codebooks": groups}
    return _made("vector_quantize_pytorch.LFQ", **sizes, entropy_loss_weight=0.1, commitment_loss_weight=0.25)


def _library_vq(codes: int) -> Callable[[], "nn.Module"]:
    plain = {"learnable_codebook": True, "ema_update": False, "rotation_trick": False}
    return _made("vector_quantize_pytorch.VectorQuantize", dim=8, codebook_size=codes, **plain)


ALL_CASES = (
    Case(
        "lfq18",
        "LFQ 2^18, both entropies",
        18,
        _lfq(18),
        _library_lfq(18),
        library_tokens=256,
        seconds=1.0,
        mebibytes=250,
        slow=True,
    ),
    Case("lfq14", "LFQ 2^14, both entropies", 14, _lfq(14), _library_lfq(14), seconds=0.15, mebibytes=100),
    Case("vq16k", "VQ K=16384 D=8, learnable", 8, _vq(2**14), _library_vq(2**14), seconds=0.1, mebibytes=100),
    Case(
        "vq18",
        "VQ K=2^18 D=8, forward",
        8,
        _vq(2**18),
        _library_vq(2**18),
        library_tokens=512,
        backward=False,
        seconds=1.5,
        mebibytes=150,
        slow=True,
    ),
    Case(
        "ibq18",
        "IBQ K=2^18 D=256, training step",
        256,
        _made(f"{OURS}.ibq.IBQ", dim=256, codebook_size=2**18),
        slow=True,
    ),
    Case(
        "grouped128",
        "grouped LFQ 2^128",
        128,
        _made(f"{OURS}.grouped_lfq.GroupedLFQ", dim=128, bits=128, groups=16),
        _library_lfq(8, groups=16),
        seconds=0.25,
        mebibytes=200,
    ),
)
CASES = {case.name: case for case in ALL_CASES}


def make_step(case: Case, side: str, *, tokens: int, device: "torch.device", dtype: str, compiled: bool) -> Step:
    """One training step (or one forward) of a row's imtok or library side, on vectors of its own."""
    import torch

    from ..common.types import Stream

    torch.manual_seed(0)
    make = case.ours if side == "imtok" else case.library
    assert make is not None, f"the library has no {case.name}"
    module = make().to(device).train(case.backward)
    images = max(1, tokens // 256)
    z = torch.randn(images, tokens // images, case.dim, device=device).to(getattr(torch, dtype))
    z.requires_grad_(case.backward)

    def forward(x: "Tensor") -> "Tensor":
        if side == "imtok":
            out = module({"main": Stream(x)})
            return out.codes["main"].x_BND.float().sum() + sum(out.losses.values())
        codes, _, loss = module(x)
        return codes.float().sum() + loss.sum()

    call = torch.compile(forward) if compiled else forward

    def step() -> None:
        if not case.backward:
            with torch.no_grad():
                call(z)
            return
        z.grad = None
        for parameter in module.parameters():
            parameter.grad = None
        call(z).backward()

    return Step(step, z)
