"""InfoNCE by hand, over two processes, and the term with a real tokenizer."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.losses.semantic.infonce import SemanticInfoNCE
from imtok.losses.semantic.pairs import symmetric_infonce
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses

VIT = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2}
NODE = {
    "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
    "image_size": 32,
    "encoder": {
        "_target_": "imtok.tokenizers.encoders.vit_queries.QueryViTEncoder",
        "dim": 8,
        "branches": 2,
        "latent_side": 3,
        **VIT,
    },
    "quantizer": {
        "_target_": "imtok.tokenizers.quantizers.product_vq.ProductQuantizer",
        "part": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16},
    },
    "decoder": {"_target_": "imtok.decoders.vit_queries.QueryViTDecoder", **VIT},
}


def by_hand(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    similar = scale * a.double() @ b.double().T
    own = similar.diagonal()
    return ((similar.logsumexp(dim=1) - own).mean() + (similar.logsumexp(dim=0) - own).mean()) / 2


def test_against_the_formula_with_left_out_samples() -> None:
    a, b = torch.randn(2, 7, 5)
    keep = torch.tensor([True, False, True, True, False, True, True])
    expected = by_hand(a[keep], b[keep], 2.0)
    torch.testing.assert_close(symmetric_infonce(a, b, keep, scale=2.0, join=True).double(), expected)
    torch.testing.assert_close(symmetric_infonce(a, b, scale=2.0, join=True).double(), by_hand(a, b, 2.0))


def test_left_out_samples_cost_no_wait() -> None:
    with FakeTensorMode():  # its tensors have no values: what would ask a GPU for one fails
        a, b = torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
        symmetric_infonce(a, b, torch.rand(7) > 0.5, scale=2.0, join=True).backward()


WORKER = """
import sys, torch, torch.distributed as dist
from imtok.losses.semantic.pairs import symmetric_infonce
from torch.utils._python_dispatch import TorchDispatchMode
class Largest(TorchDispatchMode):
    numel = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            Largest.numel = max(Largest.numel, x.numel() if isinstance(x, torch.Tensor) else 0)
        return out
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt")
weight, mine = given["weight"].requires_grad_(), slice(20 * rank, 20 * rank + 20)
data = given["data"][mine]
with Largest():
    losses = [
        symmetric_infonce(data @ weight, data @ weight.T, keep[mine], scale=1.5, join=True) for keep in given["keep"]
    ]
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in losses]
found = torch.stack([loss.detach() for loss in losses]), torch.stack(gradients)
for averaged in found:  # as data-parallel training does
    dist.all_reduce(averaged)
    averaged /= 2
torch.save((*found, Largest.numel), f"{folder}/{rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(tmp_path) -> None:
    some = torch.rand(40) > 0.3
    keeps = torch.stack([some, some & (torch.arange(40) < 20)])  # of the second batch, one process keeps none
    weight, data = torch.randn(4, 4, requires_grad=True), torch.randn(40, 4)
    torch.save({"weight": weight.detach(), "data": data, "keep": keeps}, tmp_path / "given.pt")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE, cwd=tmp_path)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-2000:]
    for rank in range(2):
        losses, gradients, largest = torch.load(tmp_path / f"{rank}.pt")
        assert largest == 20 * 40  # own rows against all columns; all pairs would be 40 * 40
        for loss, gradient, keep in zip(losses, gradients, keeps, strict=True):
            expected = by_hand((data @ weight)[keep], (data @ weight.T)[keep], 1.5).float()
            torch.testing.assert_close(loss, expected.detach())
            torch.testing.assert_close(gradient, torch.autograd.grad(expected, weight)[0], rtol=1e-4, atol=1e-6)


TEACHERS = {
    "small": {
        "_target_": "imtok.losses.teachers.timm_teacher.TimmTeacher",
        "model": "vit_small_patch14_dinov2",
        "weights": "random",
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 1},
    }
}


def term_of(teachers=TEACHERS, **settings) -> SemanticInfoNCE:
    term = SemanticInfoNCE(teacher="small", **settings)
    term.learn_from(NamedTeachers(teachers).get("small", asked_by="test"))
    return term


def test_the_term_trains_the_codes_and_the_shared_projection() -> None:
    tokenizer = build(NODE, key="tokenizer").train()
    node = {
        "semantic_infonce": {
            "weight": 0.1,
            "term": {"_target_": f"{SemanticInfoNCE.__module__}.SemanticInfoNCE", "teacher": "small"},
        }
    }
    losses = WeightedLosses.from_config(node, tokenizer, NamedTeachers(TEACHERS))
    assert not list(losses.parameters())
    assert not losses.state_dict()
    assert losses.random_weights == ["semantic_infonce"]
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    output = tokenizer(images)
    losses({"image": images}, output, 0).total.backward()
    assert float(tokenizer.encoder.project.weight.grad.abs().sum()) > 0
    assert float(tokenizer.encoder.queries.grad[9:].abs().sum()) > 0

    term = losses.terms["semantic_infonce"]
    teacher = term.network.network(term.network.prepared(images))  # timm's own forward
    codes = output.quantized.codes["main"].x_BND[..., 4:].mean(dim=1)  # of the last branch
    expected = by_hand(tokenizer.encoder.project(teacher), codes, 1.0)
    torch.testing.assert_close(term({"image": images}, output).double(), expected)
    output.quantized.sample_mask = torch.tensor([False, True, True, True])
    expected = by_hand(tokenizer.encoder.project(teacher)[1:], codes[1:], 1.0)
    torch.testing.assert_close(term({"image": images}, output).double(), expected)


def test_the_first_branch_against_the_mean_of_the_teachers_patches() -> None:
    """XQ-GAN's detail loss."""
    tokenizer, images = build(NODE, key="tokenizer").eval(), torch.rand(4, 3, 32, 32) * 2 - 1
    output, term = tokenizer(images), term_of(branch=0, teacher_reads="patches")
    assert term.misfit(tokenizer) is None
    patches = term.network.network.forward_features(term.network.prepared(images))[:, 1:]
    codes = output.quantized.codes["main"].x_BND[..., :4].mean(dim=1)
    expected = by_hand(tokenizer.encoder.project(patches.mean(dim=1)), codes, 1.0)
    torch.testing.assert_close(term({"image": images}, output).double(), expected)
    with pytest.raises(UserError, match=r"^loss\.mine\.term\.teacher_reads=class: .* one of pooled, patches"):
        build(
            {"_target_": "imtok.losses.semantic.infonce.SemanticInfoNCE", "teacher_reads": "class"},
            key="loss.mine.term",
        )


def test_the_scale_of_the_logits_can_grow() -> None:
    tokenizer, images = build(NODE, key="tokenizer").eval(), torch.rand(4, 3, 32, 32) * 2 - 1
    output = tokenizer(images)

    def value(scale: object, update: int) -> torch.Tensor:
        term = {"_target_": f"{SemanticInfoNCE.__module__}.SemanticInfoNCE", "teacher": "small", "scale": scale}
        node = {"semantic_infonce": {"weight": 1.0, "term": term}}
        losses = WeightedLosses.from_config(node, tokenizer, NamedTeachers(TEACHERS))
        return losses({"image": images}, output, update).raw["semantic_infonce"]

    growing = {"start": 1.0, "end": 101.0, "updates": 200}
    for update, scale in ((0, 1.0), (20, 11.0), (200, 101.0), (999, 101.0)):
        torch.testing.assert_close(value(growing, update), value(scale, update))
    with pytest.raises(UserError, match=r"loss\.semantic_infonce\.term.*scale\.updates"):
        value({"start": 1.0, "end": 2.0}, 0)


def test_what_does_not_fit_is_said_before_training(tokenizer_node) -> None:
    plain, branched = build(tokenizer_node, key="tokenizer"), build(NODE, key="tokenizer")
    assert "no branches" in term_of().misfit(plain)
    assert "2 branches" in term_of(branch=2).misfit(branched)
    wide = {"small": TEACHERS["small"] | {"model_args": TEACHERS["small"]["model_args"] | {"embed_dim": 8}}}
    assert "8 features" in term_of(wide).misfit(branched)
