"""One process of the two-process contract: trains every quantizer YAML a little and writes down what it ended with.

    python two_processes.py RANK WORLD STORE OUT

WORLD=2: rank RANK sees its half of every batch, gradients are averaged as DDP does. (Not DDP itself: that copies rank
0's buffers to all before every forward and so would hide buffers that part.) WORLD=1: one process, the joined batch.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from imtok.common.build import build, locate
from imtok.common.types import Stream
from imtok.tokenizers.quantizers.base import Quantizer
from imtok.tokenizers.quantizers.ibq import IBQ
from imtok.tokenizers.quantizers.lfq import LFQ
from imtok.tokenizers.quantizers.shared.binary_entropy import binary_entropies
from imtok.tokenizers.quantizers.shared.binary_entropy_table import table_entropies
from imtok.tokenizers.quantizers.shared.softmax_codes import distance_entropies

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "tokenizer" / "quantizer"
UPDATES = 20
DIM, GRID, BATCH = 16, (4, 4), 4  # a process
# Revival within 20 updates: a code is dead as soon as it gets less than its half.
EAGER_REVIVAL = {"revive_below": 0.5, "usage_decay": 0.5}
LOSS_WEIGHTS = {"codebook": 1.0, "commit": 0.25, "entropy": 0.1, "kl": 1e-3, "variance": 0.01}


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def streams_of(node: dict[str, Any]) -> tuple[str, ...]:
    """`main`, or what a quantizer of several streams names in its YAML or declares."""
    if isinstance(node.get("quantizers"), dict):
        return tuple(node["quantizers"])
    return tuple(locate(node["_target_"], key="tokenizer.quantizer").reads)


def make_revival_eager(node: dict[str, Any]) -> None:
    """Also that of parts inside: product_vq, parallel, dual_residual_vq."""
    if node.get("revive_below"):
        accepted = inspect.signature(locate(node["_target_"], key="tokenizer.quantizer").__init__).parameters
        node |= {key: value for key, value in EAGER_REVIVAL.items() if key in accepted}
    for child in node.values():
        if isinstance(child, dict):
            make_revival_eager(child)


def make(name: str) -> tuple[Quantizer, tuple[str, ...]]:
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    node |= node.get("tiny", {})
    make_revival_eager(node)
    streams = streams_of(node)
    dim = DIM if streams == ("main",) else dict.fromkeys(streams, DIM)
    return build(node, key="tokenizer.quantizer", dim=dim), streams


def pictures(step: int, half: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + half)
    return torch.randn(BATCH, GRID[0] * GRID[1], DIM, generator=generator)


class TinyModel(nn.Module):
    def __init__(self, quantizer: Quantizer, streams: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({stream: nn.Linear(DIM, DIM) for stream in streams})
        self.quantizer = quantizer
        out = quantizer.out_dim if isinstance(quantizer.out_dim, dict) else {"main": quantizer.out_dim}
        self.decoder = nn.ModuleDict({stream: nn.Linear(width, DIM) for stream, width in out.items()})

    def forward(self, x_BND: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        out = self.quantizer({name: Stream(layer(x_BND), GRID) for name, layer in self.encoder.items()})
        decoded = [self.decoder[name](stream.x_BND) for name, stream in out.codes.items()]
        return torch.stack([F.mse_loss(x, x_BND) for x in decoded]).mean(), out.losses


def train(name: str, *, rank: int, world: int) -> dict[str, Any]:
    torch.manual_seed(0)
    quantizer, streams = make(name)
    model = TinyModel(quantizer, streams).train()
    # Small steps: entropies at temperature 0.01 blow rounding up about threefold an update at 0.02.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005)
    history: list[dict[str, float]] = []
    for step in range(UPDATES):
        torch.manual_seed(1000 * step + rank)  # ranks draw different numbers, as they do in real runs
        quantizer.set_update(step)
        x = pictures(step, rank) if world == 2 else torch.cat([pictures(step, 0), pictures(step, 1)])
        loss, losses = model(x)
        total = loss + sum(LOSS_WEIGHTS[key] * value for key, value in losses.items())
        optimizer.zero_grad()
        total.backward()
        for parameter in model.parameters():
            if world == 2:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(gradient)
                parameter.grad = gradient / world
        optimizer.step()
        history.append({key: value.item() for key, value in losses.items()})
    declared = bool(quantizer.joined_batch_equal)
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    return {"state": state, "history": history, "joined_batch_equal": declared}


def unequal_batches(*, rank: int, world: int) -> dict[str, Any]:
    """Entropies of 30 and 50 tokens on two ranks, and the gradient of each rank's own tokens."""
    given = torch.Generator().manual_seed(7)
    logits, codebook = torch.randn(80, 6, generator=given), torch.randn(32, 6, generator=given)
    forms = {
        "signs": lambda z: binary_entropies(z, group_bits=6),
        "table": lambda z: table_entropies(z, temperature=1.0, group_bits=6),
        "codebook": lambda z: distance_entropies(z, codebook, 1.0),
    }
    results = {}
    for name, entropies in forms.items():
        own = (logits if world == 1 else logits.split([30, 50])[rank]).clone().requires_grad_()
        per_token, of_mean = entropies(own)
        (per_token - 2 * of_mean).backward()
        results[name] = {"per_token": per_token.item(), "of_mean": of_mean.item(), "grad": own.grad / world}  # as DDP
    return results


def in_groups(*, rank: int, world: int) -> dict[str, Any]:
    """The loss `entropy` over groups of two images, of four images on each of two ranks, and its gradient."""
    images = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(8))
    results = {}
    for name, quantizer in {
        "lfq": LFQ(dim=6, bits=6, temperature=0.5, entropy_images=2),
        "ibq": IBQ(dim=6, codebook_size=16, entropy_temperature=0.5, entropy_images=2),
    }.items():
        torch.manual_seed(0)
        for parameter in quantizer.parameters():
            nn.init.normal_(parameter)
        own = (images if world == 1 else images.split(4)[rank]).clone().requires_grad_()
        loss = quantizer.train()({"main": Stream(own, None)}).losses["entropy"]
        loss.backward()
        results[name] = {"loss": loss.item(), "grad": own.grad / world}  # as DDP
    return results


def main(rank: int, world: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    results = {name: train(name, rank=rank, world=world) for name in names()}
    results["unequal batches"] = unequal_batches(rank=rank, world=world)
    torch.save(results | {"in groups": in_groups(rank=rank, world=world)}, out)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
