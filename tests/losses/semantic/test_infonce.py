"""InfoNCE by hand, over two processes, and the term with a real tokenizer."""

import subprocess
import sys

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.losses.semantic.infonce import SemanticInfoNCE, symmetric_infonce
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
    torch.testing.assert_close(symmetric_infonce(a, b, keep, scale=2.0).double(), expected)
    assert float(symmetric_infonce(a, b, torch.zeros(7, dtype=torch.bool), scale=1.0)) == 0


WORKER = """
import sys, torch, torch.distributed as dist
from imtok.losses.semantic.infonce import symmetric_infonce
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt")
weight, mine = given["weight"].requires_grad_(), slice(3 * rank, 3 * rank + 3)
data, keep = given["data"][mine], given["keep"][mine]
loss = symmetric_infonce(data @ weight, data @ weight.T, keep, scale=1.5)
loss.backward()
dist.all_reduce(weight.grad)
torch.save((loss.detach(), weight.grad / 2), f"{folder}/{rank}.pt")  # averaged, as data-parallel training does
"""


@pytest.mark.slow
def test_two_processes_are_one_with_the_joined_batch(tmp_path) -> None:
    keep = torch.tensor([True, True, False, True, True, True])
    weight, data = torch.randn(4, 4, requires_grad=True), torch.randn(6, 4)
    torch.save({"weight": weight.detach(), "data": data, "keep": keep}, tmp_path / "given.pt")
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(tmp_path)], stderr=subprocess.PIPE, cwd=tmp_path)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-2000:]
    expected = symmetric_infonce(data @ weight, data @ weight.T, keep, scale=1.5)
    expected.backward()
    for rank in range(2):
        loss, gradient = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(gradient, weight.grad)


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
