"""CLIP's and SigLIP's losses by hand, over two processes, and as terms beside a tokenizer."""

import math
import subprocess
import sys

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.losses.semantic.contrastive import ClipInfoNCE, SigLIP
from imtok.losses.teachers.text_tower import TextTower
from imtok.losses.total import WeightedLosses
from imtok.training.checkpoint import trained_state

SMALL = {"width": 8, "layers": 1, "heads": 2, "dim": 6, "max_tokens": 16}


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=1)


def test_clip_by_hand() -> None:
    term = ClipInfoNCE(tower=TextTower(**SMALL))
    a, b = unit(3, 5), unit(3, 5)
    logits = (a.double() @ b.double().T / 0.07).tolist()
    rows = sum(math.log(sum(math.exp(x) for x in row)) - row[i] for i, row in enumerate(logits)) / 3
    columns = sum(math.log(sum(math.exp(x) for x in c)) - c[i] for i, c in enumerate(zip(*logits, strict=True))) / 3
    assert float(term.loss(a, b).detach()) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_the_scale_is_kept_in_its_range_and_can_come_back() -> None:
    term, a = ClipInfoNCE(tower=TextTower(**SMALL)), unit(3, 5)
    with torch.no_grad():
        term.log_scale.fill_(9.0)  # a step that went too far
    term.after_step()
    assert float(term.log_scale.detach()) == pytest.approx(math.log(100))
    loss = term.loss(a, a[[1, 2, 0]])  # wrong partners: a lower scale is better
    assert float(loss.detach()) == pytest.approx(
        float(torch.nn.functional.cross_entropy(100 * a @ a.T, torch.tensor([2, 0, 1]))), rel=1e-4
    )
    loss.backward()
    assert float(term.log_scale.grad) > 0
    with torch.no_grad():
        term.log_scale.fill_(-1.0)
    term.after_step()
    assert float(term.log_scale.detach()) == 0


def test_a_training_step_ends_within_the_range(tokenizer_node) -> None:
    tower = {"_target_": "imtok.losses.teachers.text_tower.TextTower", **SMALL}
    node = {"clip": {"term": {"_target_": "imtok.losses.semantic.contrastive.ClipInfoNCE", "tower": tower}}}
    losses = WeightedLosses.from_config(node, build(tokenizer_node, key="tokenizer"))
    losses.terms["clip"].log_scale.data.fill_(9.0)
    losses.after_step()
    assert float(losses.terms["clip"].log_scale.detach()) == pytest.approx(math.log(100))


def test_siglip_by_hand() -> None:
    term = SigLIP(tower=TextTower(**SMALL))
    a, b = unit(3, 5), unit(3, 5)
    total = 0.0
    for i in range(3):
        for j in range(3):
            z = 10 * float(a[i] @ b[j]) - 10
            total += math.log(1 + math.exp(-z if i == j else z))
    assert float(term.loss(a, b).detach()) == pytest.approx(total / 3, rel=1e-5)


WORKER = """
import sys, torch, torch.distributed as dist
from imtok.losses.semantic.contrastive import ClipInfoNCE, SigLIP
from imtok.losses.teachers.text_tower import TextTower
from imtok.common.types import Quantized, Stream, TokenizerOutput
from torch.utils._python_dispatch import TorchDispatchMode
class Largest(TorchDispatchMode):
    numel = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            self.numel = max(self.numel, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out
folder, rank = sys.argv[1], int(sys.argv[2])
if rank >= 0:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given, saved = torch.load(f"{folder}/given.pt"), {}
for kind in (ClipInfoNCE, SigLIP):
    torch.manual_seed(0)
    term = kind(tower=TextTower(width=8, layers=1, heads=2, dim=6, max_tokens=16), reads="codes.main")
    term.projector = torch.nn.Linear(4, 6)
    mine = slice(3 * rank, 3 * rank + 3) if rank >= 0 else slice(None)
    weight = given["weight"].clone().requires_grad_()
    codes = (given["data"][mine] @ weight)[:, None]
    output = TokenizerOutput({}, Quantized(codes={"main": Stream(codes)}, indices={}), None)
    loss = term({"caption": given["captions"][mine]}, output)
    loss.backward()
    gradients = {n: p.grad for n, p in term.named_parameters()} | {"weight": weight.grad}
    loss = loss.detach()
    if rank >= 0:
        for value in (loss, *gradients.values()):  # averaged, as data-parallel training does
            dist.all_reduce(value)
            value /= 2
    with Largest() as largest:
        rows = torch.randn(2, 20, 4, requires_grad=True)
        torch.autograd.grad(term.loss(*rows, join=True), rows)
    saved[kind.__name__] = (loss, gradients, largest.numel)
torch.save(saved, f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(tmp_path) -> None:
    captions = [f"a {word} thing" for word in ("red", "blue", "small", "large", "round", "flat")]
    given = {"weight": torch.randn(4, 4), "data": torch.randn(6, 4), "captions": captions}
    torch.save(given, tmp_path / "given.pt")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank)], stderr=subprocess.PIPE, cwd=tmp_path)
        for rank in (-1, 0, 1)  # -1: alone, with the joined batch
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors.decode()[-2000:]
    alone = torch.load(tmp_path / "-1.pt")
    assert set(alone) == {"ClipInfoNCE", "SigLIP"}
    for rank in (0, 1):
        for name, (loss, gradients, largest) in torch.load(tmp_path / f"{rank}.pt").items():
            expected_loss, expected, _ = alone[name]
            assert largest == 20 * 40, name  # own rows against all columns; all pairs would be 40 * 40
            assert any(n.startswith("tower") for n in expected) and "log_scale" in expected
            torch.testing.assert_close(loss, expected_loss)
            for key, gradient in expected.items():
                torch.testing.assert_close(gradients[key], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {key}")


def test_as_terms(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").train()
    tower = {"_target_": "imtok.losses.teachers.text_tower.TextTower", **SMALL}
    node = {
        "clip": {"term": {"_target_": "imtok.losses.semantic.contrastive.ClipInfoNCE", "tower": tower}},
        "siglip": {
            "term": {
                "_target_": "imtok.losses.semantic.contrastive.SigLIP",
                "tower": tower | {"trainable": False},
                "reads": "latents.main",
                "projector": "mlp",
            }
        },
    }
    losses = WeightedLosses.from_config(node, tokenizer)
    assert losses.random_weights == ["siglip"]  # frozen and drawn; the other one's trains
    images, captions = torch.rand(2, 3, 32, 32) * 2 - 1, ["a star", "a red ring"]
    losses({"image": images, "caption": captions}, tokenizer(images), 0).total.backward()
    clip, siglip = losses.terms["clip"], losses.terms["siglip"]
    for part in (
        clip.tower.network.token_embedding.weight,
        clip.log_scale,
        siglip.bias,
        tokenizer.encoder.conv_in.weight,
    ):
        assert float(part.grad.abs().sum()) > 0
    assert siglip.tower.network.token_embedding.weight.grad is None
    kept = trained_state(losses)
    assert any(k.startswith("terms.clip.tower") for k in kept)
    assert not any(k.startswith("terms.siglip.tower") for k in kept)
    with pytest.raises(UserError, match="needs captions"):
        losses({"image": images}, tokenizer(images), 0)


def test_towers_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="name an open_clip model"):
        TextTower(weights="pretrained")
    with pytest.raises(ValueError, match="no such model"):
        TextTower(model="nonsense")
    with pytest.raises(ValueError, match="heads=3"):
        TextTower(width=8, heads=3, layers=1)
