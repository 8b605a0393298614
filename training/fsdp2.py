"""Fully sharded data parallelism, `trainer.strategy=fsdp2`: PyTorch's fully_shard over the repeated blocks.

A process keeps its share of each large block's weights, gradients, running means and optimizer state; a block is whole
while it computes. Sharded are blocks of encoder, decoder, heads and discriminator (19 parts of 20 of most published
systems). Everything else stays whole on every process and has its gradient averaged at the end of an update: codebooks,
which revival writes into; the last layer, which the adaptive weight differentiates; trained parts of losses. Shards and
gradients are fp32, and autocast is the same as without, so losses are those of DDP.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from ..common.blocks import blocks_of, shared_parameters
from ..common.console import is_first_rank, say
from ..common.distributed import from_first_process, is_sharded, sum_over_processes
from ..common.errors import UserError
from ..losses.adversarial.adversary import Adversary
from ..tokenizers.tokenizer import Tokenizer
from .objectives import InOneProcess
from .settings import TrainerSettings

SMALLEST_BLOCK = 100_000  # parameters; smaller ones cost more messages than memory
SHARDED_PARTS = ("encoder", "decoder", "heads")


class ShardedStrategy(DDPStrategy):
    """Lightning's processes and devices as with DDP; networks are sharded instead of wrapped."""

    def configure_ddp(self) -> None:
        training: Any = self.lightning_module
        shard(training, device=self.root_device)

    def wrapped(self, objective: nn.Module) -> "ShardedObjective":
        return ShardedObjective(objective)

    def teardown(self) -> None:
        """Shards stay on their device, where export gathers them; Lightning would move them to the CPU."""
        assert self.cluster_environment is not None and self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


class ShardedObjective(InOneProcess):
    """Blocks reduce their gradients in the backward of every micro-batch: unreduced ones would be whole again."""

    def finish(self) -> None:
        average_whole([p for p in self.objective.parameters() if p.requires_grad])


def check_sharded(settings: TrainerSettings, processes: int) -> None:
    """What cannot work with it is refused before anything is built."""
    if processes == 1:
        raise UserError("trainer.strategy=fsdp2: one process has nothing to share; start several by torchrun, or auto")
    if settings.compile:
        raise UserError(
            "trainer.compile=true: not with trainer.strategy=fsdp2, which steps in between blocks; set false"
        )
    if settings.accelerator == "mps":
        raise UserError("trainer.strategy=fsdp2: not on mps; trainer.accelerator=gpu or cpu")


def shard(training: Any, *, device: torch.device, smallest: int | None = None) -> None:
    """In place, once all networks are on `device`; rank 0's weights count."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    tokenizer, adversary = training.tokenizer, training.adversary
    with torch.no_grad():
        for network in (tokenizer, training.losses, adversary):
            for tensor in [] if network is None else [*network.parameters(), *network.buffers()]:
                tensor.copy_(from_first_process(tensor.detach()))
    blocks = sharded_blocks(tokenizer, adversary, smallest=smallest)
    if not any(blocks.values()):
        raise UserError(
            f"trainer.strategy=fsdp2: no block of this tokenizer has {smallest or SMALLEST_BLOCK} parameters; use auto"
        )
    for root, own in blocks.items():
        _shard_network(root, own, mesh)
    # A view that is then changed in place would not have its weights gathered; no part of ours does that.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
    if is_first_rank():
        count = sum(_size(block) for own in blocks.values() for block in own)
        total = sum(p.numel() for n in (tokenizer, training.losses, adversary) if n for p in n.parameters())
        say(f"trainer.strategy fsdp2: {count / total:.1%} of {total / 1e6:.1f} M parameters are sharded")


def sharded_blocks(
    tokenizer: Tokenizer, adversary: Adversary | None, *, smallest: int | None = None
) -> dict[nn.Module, list[nn.Module]]:
    """What is sharded, by the network that it belongs to."""
    parts: dict[nn.Module, list[nn.Module]] = {tokenizer: [getattr(tokenizer, name) for name in SHARDED_PARTS]}
    if adversary is not None:
        parts[adversary.discriminator] = [adversary.discriminator]
    found: dict[nn.Module, list[nn.Module]] = {}
    for root, own in parts.items():
        whole = shared_parameters(root) | {id(tokenizer.last_layer)}
        blocks = [block for part in own for _, block in blocks_of(part)]
        large = [b for b in blocks if _size(b) >= (SMALLEST_BLOCK if smallest is None else smallest)]
        found[root] = [b for b in large if whole.isdisjoint(map(id, b.parameters()))]
    return found


def _shard_network(root: nn.Module, blocks: Sequence[nn.Module], mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        for parameter in block.parameters():  # channels_last weights cannot be sharded; images in that layout remain
            parameter.data = parameter.data.contiguous()
    sharded = [fully_shard(block, mesh=mesh, reshard_after_forward=True) for block in blocks]
    for before, current in zip([*sharded[:1], *sharded], sharded, strict=False):
        # Gathered while this one computes backwards. Left to itself, it goes by the order of the last forwards, of
        # samples and validation too, which processes run unequally; and they would wait for each other for ever.
        current.set_modules_to_backward_prefetch([before])
    if blocks:  # a common root lets the next block's weights travel while one computes
        fully_shard(root, mesh=mesh, ignored_params={p for p in root.parameters() if not is_sharded(p)})


def _size(block: nn.Module) -> int:
    return sum(p.numel() for p in block.parameters())


@torch.no_grad()
def average_whole(parameters: Iterable[nn.Parameter]) -> None:
    """Gradients of parameters that are not sharded, averaged over processes in one message; the others were, by block.

    Where no process has a gradient, there is none afterwards.
    """
    trained = [p for p in parameters if not is_sharded(p)]
    if not trained:
        return
    given = [p.grad for p in trained]
    flags = torch.tensor([g is not None for g in given], dtype=torch.float32, device=trained[0].device)
    flat = [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(trained, given, strict=True)]
    joined = sum_over_processes(torch.cat([*flat, flags])) / torch.distributed.get_world_size()
    *means, seen = joined.split([*(f.numel() for f in flat), len(flags)])
    anywhere = seen.tolist() if None in given else [1.0] * len(given)  # the host waits only where it has to
    for parameter, gradient, mean, count in zip(trained, given, means, anywhere, strict=True):
        if gradient is not None:
            gradient.copy_(mean.view_as(gradient))
        elif count:
            parameter.grad = mean.view_as(parameter).clone()


def is_any_sharded(module: nn.Module) -> bool:
    return any(is_sharded(parameter) for parameter in module.parameters())


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Inside, every block is whole on every process, and forwards need no other process. All processes enter.

    For validation and samples, where processes have unequal numbers of images.
    """
    if not is_any_sharded(module):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    blocks = [m for m in module.modules() if isinstance(m, FSDPModule)]
    for block in blocks:
        block.set_reshard_after_forward(False, recurse=False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True, recurse=False)
            block.reshard()


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tensors on the CPU: all of it on rank 0, nothing elsewhere. All processes call this."""
    state = {}
    for name, value in module.state_dict().items():
        full = value.full_tensor() if is_sharded(value) else value
        if is_first_rank():
            state[name] = full.detach().cpu()
    return state
