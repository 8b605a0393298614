"""Activation checkpointing, `trainer.checkpoint_activations`: blocks are computed again in the backward.

Chen et al., arXiv 1604.06174. Of a block only its inputs are kept until then: less memory, about a third more compute.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..common.blocks import blocks_of
from ..common.errors import UserError
from ..tokenizers.quantizers.base import Quantizer
from ..tokenizers.tokenizer import Tokenizer
from .init_from import part_named

# Their forward changes their buffers in training, and would do so twice.
CHANGED_BY_FORWARD = (Quantizer, nn.modules.batchnorm._NormBase)
KEY = "trainer.checkpoint_activations"


def checkpoint_activations(tokenizer: Tokenizer, paths: Iterable[str]) -> None:
    """In place: classes change, names in state dicts do not. paths: of parts that hold blocks, or of single blocks."""
    for path in paths:
        part = part_named(tokenizer, path, key=KEY)
        blocks = [] if isinstance(part, nn.Parameter) else [block for _, block in blocks_of(part)]
        if not blocks and isinstance(part, nn.Module) and _is_item(tokenizer, path):
            blocks = [part]
        if not blocks:
            raise UserError(
                f"{KEY}={path}: no list of blocks in it ({type(part).__name__}); encoder or decoder may have"
            )
        for block in blocks:
            for inner in block.modules():
                if isinstance(inner, CHANGED_BY_FORWARD):
                    raise UserError(f"{KEY}={path}: {type(inner).__name__} changes in its forward, so once is enough")
            if not hasattr(type(block), "is_recomputed"):
                block.__class__ = recomputed(type(block))  # type: ignore[arg-type]


def _is_item(tokenizer: nn.Module, path: str) -> bool:
    return isinstance(tokenizer.get_submodule(path.rpartition(".")[0]), (nn.ModuleList, nn.Sequential))


@cache
def recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """Random numbers are those of the first time (drop path), and so is autocast."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *args, **kwargs)
        return checkpoint(kind.forward, self, *args, use_reentrant=False, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward, "is_recomputed": True, "__module__": kind.__module__})
