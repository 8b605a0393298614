"""torch.compile of what trains: encoder, decoder, discriminator."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..decoders.base import Decoder
from ..losses.adversarial.adaptive_weight import keep_last_layer_out_of_compile
from ..losses.adversarial.adversary import Adversary
from ..tokenizers.tokenizer import Tokenizer


def compile_parts(
    tokenizer: Tokenizer, adversary: Adversary | None, *, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """In place, so that names in checkpoints and exports stay; the last layer stays eager for the adaptive weight."""
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # the adaptive weight runs parts of the graph backwards twice
    if adversary is not None and adversary.adaptive is not None:
        assert tokenizer.last_layer is not None  # Adversary.check
        keep_last_layer_out_of_compile(tokenizer.decoder, tokenizer.last_layer)
    tokenizer.encoder.compile(backend=backend)
    tokenizer.decoder.compile(backend=backend)
    if type(tokenizer.decoder).training_losses is not Decoder.training_losses:
        compile_method(tokenizer.decoder, "training_losses", backend=backend)
    if adversary is not None:
        adversary.discriminator.compile(backend=backend)


def compile_method(module: nn.Module, name: str, *, backend: str | Callable[..., Any]) -> None:
    """What Module.compile does for `forward`. On a class of its own: a copy of the module then calls its own."""
    own = type(module)
    compiled = {name: torch.compile(getattr(own, name), backend=backend), "__module__": own.__module__}
    module.__class__ = type(own.__name__, (own,), compiled)


def compile_blocks(blocks: Iterable[nn.Module], *, backend: str | Callable[..., Any] = "inductor") -> None:
    """Of sharded networks: a block's weights are gathered before its forward and released after it, by hooks around it.

    Blocks of one class and size share their code, and those of other sizes count as recompilations of it.
    """
    import torch._dynamo.config

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=backend)  # type: ignore[method-assign]
