"""Cosine, squared error and Gram terms by hand; what they read; their projectors; what does not fit."""

import math

import pytest
import torch
import yaml
from torch import nn

from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.common.types import Quantized, Stream, TokenizerOutput
from imtok.common.weights import Weights
from imtok.losses.semantic.cosine import SemanticCosine, SemanticMSECosine
from imtok.losses.semantic.gram import SemanticGram
from imtok.losses.source import Reading
from imtok.losses.teachers.base import SemanticTeacher, TeacherFeatures
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.total import WeightedLosses

TEACHER = {
    "_target_": "imtok.losses.teachers.timm_teacher.TimmTeacher",
    "model": "vit_tiny_patch16_224",
    "weights": "random",
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2},
}


class Table(SemanticTeacher):
    """Says what it is told: 2x2 tokens and a pooled vector."""

    def __init__(self, tokens_BND: torch.Tensor) -> None:
        super().__init__(interpolation="bilinear")
        self.origin = Weights(source="random", random=True)
        self.tokens_dim = self.pooled_dim = tokens_BND.shape[2]
        self.tokens_BND = tokens_BND
        self._finish(image_size=4, mean=(0, 0, 0), deviation=(1, 1, 1))

    def features(self, prepared: torch.Tensor) -> TeacherFeatures:
        return TeacherFeatures(self.tokens_BND, (2, 2), self.tokens_BND.sum(dim=1))


def output_of(ours: Stream, **more) -> TokenizerOutput:
    return TokenizerOutput({"main": ours}, Quantized(codes={"main": ours}, indices={}, **more), None)


def taught(term, tokens_BND: torch.Tensor):
    term.learn_from(Table(tokens_BND))
    return term


IMAGES = torch.zeros(2, 3, 4, 4)


def test_cosine_by_hand() -> None:
    ours = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0]]] * 2)
    theirs = torch.tensor([[[2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]] * 2)
    term = taught(SemanticCosine(teacher="t", reads="codes.main"), theirs)
    by_hand = (0 + 1 + (1 - math.sqrt(0.5)) + 2) / 4
    output = output_of(Stream(ours, (2, 2)))
    assert float(term({"image": IMAGES}, output)) == pytest.approx(by_hand)
    assert term.cosine_to_teacher(IMAGES, output).tolist() == pytest.approx([1 - by_hand] * 2)
    mask = torch.tensor([[True, True, False, False]] * 2)
    masked = output_of(Stream(ours, (2, 2), mask))
    assert float(term({"image": IMAGES}, masked)) == pytest.approx(0.5)
    dropped = output_of(Stream(torch.cat([ours[:1], theirs[:1]]), (2, 2)), sample_mask=torch.tensor([False, True]))
    assert float(term({"image": IMAGES}, dropped)) == pytest.approx(0)


def test_mse_and_cosine_on_tokens_and_pooled() -> None:
    same = torch.rand(2, 4, 3)
    term = taught(SemanticMSECosine(teacher="t", reads="codes.main", compare="tokens"), same)
    assert float(term({"image": IMAGES}, output_of(Stream(same, (2, 2))))) == pytest.approx(-1)
    ours, theirs = torch.rand(2, 4, 3), torch.rand(2, 4, 3)
    term = taught(SemanticMSECosine(teacher="t", reads="codes.main", compare="both"), theirs)
    mean, total = ours.mean(1), theirs.sum(1)
    tokens = ((ours - theirs) ** 2).mean() - nn.functional.cosine_similarity(ours, theirs, dim=-1).mean()
    whole = ((mean - total) ** 2).mean() - nn.functional.cosine_similarity(mean, total, dim=-1).mean()
    assert float(term({"image": IMAGES}, output_of(Stream(ours, (2, 2))))) == pytest.approx(float(tokens + whole))


def test_gram_over_tokens_and_channels() -> None:
    ours, theirs = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
    turned = ours @ torch.linalg.qr(torch.randn(3, 3))[0] * 7  # neither rotation nor length changes cosines
    term = taught(SemanticGram(teacher="t", reads="codes.main"), ours)
    assert float(term({"image": IMAGES}, output_of(Stream(turned, (2, 2))))) == pytest.approx(0, abs=1e-10)
    term = taught(SemanticGram(teacher="t", reads="codes.main"), theirs)  # other width
    cos = nn.functional.cosine_similarity
    expected = 0.0
    for i in range(4):
        for j in range(4):
            a, b = cos(ours[:, i], ours[:, j]), cos(theirs[:, i], theirs[:, j])
            expected += float(((a - b) ** 2).mean()) / 16
    assert float(term({"image": IMAGES}, output_of(Stream(ours, (2, 2))))) == pytest.approx(expected, rel=1e-5)
    shuffled = ours[:, [2, 0, 3, 1]]  # channels' products do not know places
    term = taught(SemanticGram(teacher="t", reads="codes.main", over="channels"), shuffled)
    assert float(term({"image": IMAGES}, output_of(Stream(ours, (2, 2))))) == pytest.approx(0, abs=1e-10)
    one, two = torch.ones(1, 4, 2), torch.tensor([[[1.0, 0.0]] * 4])
    term = taught(SemanticGram(teacher="t", reads="codes.main", over="channels"), two)
    assert float(term({"image": IMAGES[:1]}, output_of(Stream(one, (2, 2))))) == pytest.approx(3 / 4)


def test_the_teachers_grid_is_resampled_to_ours() -> None:
    theirs = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    term = taught(SemanticMSECosine(teacher="t", reads="codes.main"), theirs)
    term({"image": IMAGES[:1]}, output_of(Stream(torch.ones(1, 1, 1), (1, 1))))
    (_, laid, _), *_ = term.pairs(IMAGES[:1], output_of(Stream(torch.ones(1, 1, 1), (1, 1))))
    assert laid.tolist() == [[[2.5]]]
    with pytest.raises(ValueError, match="compare to pooled"):
        term.pairs(IMAGES[:1], output_of(Stream(torch.ones(1, 3, 1), None)))


def test_what_can_be_read() -> None:
    codes, before = Stream(torch.rand(1, 4, 2)), Stream(torch.rand(1, 4, 2))
    output = TokenizerOutput(
        {"pixel": before},
        Quantized(codes={"pixel": codes}, indices={}),
        None,
        heads={"semantic": torch.rand(1, 4, 6)},
        features={"encoder.conv_in": torch.rand(1, 3, 2, 2), "vector": torch.rand(1, 5)},
    )
    assert Reading.parse("codes.pixel").of(output) is codes
    assert Reading.parse("latents.pixel").of(output) is before
    assert Reading.parse("heads.semantic").of(output).grid == (2, 2)
    tapped = Reading.parse("features.encoder.conv_in")
    assert tapped.taps == {"encoder.conv_in": "encoder.conv_in"} and tapped.of(output).x_BND.shape == (1, 4, 3)
    assert Reading.parse("features.vector").of(output).x_BND.shape == (1, 1, 5)
    behind = {
        "codes.pixel": True,
        "heads.semantic": True,
        "latents.pixel": False,
        "features.heads.semantic.expand": True,
        "features.decoder.blocks.2": True,
        "features.encoder.semantic.tower": False,
        "features.quantizer.project_in": None,
    }
    assert {reads: Reading.parse(reads).through_quantizer for reads in behind} == behind
    with pytest.raises(ValueError, match=r"reads=tokens: give one of codes"):
        Reading.parse("tokens")
    mask = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(Stream(codes.x_BND, None, mask).mean(), codes.x_BND[:, :2].mean(1))


def losses_of(tokenizer_node, **term) -> WeightedLosses:
    node = {"_target_": "imtok.losses.semantic.cosine.SemanticCosine", "teacher": "small"} | term
    tokenizer = build(tokenizer_node, key="tokenizer").train()
    return tokenizer, WeightedLosses.from_config(
        {"semantic_cosine": {"term": node}}, tokenizer, NamedTeachers({"small": TEACHER})
    )


@pytest.mark.parametrize("reads", ["codes.main", "latents.main", "heads.semantic", "reconstruction"])
def test_gradients_reach_the_tokenizer_and_nothing_of_the_teacher_is_kept(tokenizer_node, reads) -> None:
    head = {"_target_": "imtok.decoders.heads.mlp.MLPHead", "out_dim": 8, "depth": 1}
    tokenizer, losses = losses_of(
        tokenizer_node | {"heads": {"semantic": head}},
        reads=reads,
        projector="linear" if reads == "latents.main" else "none",
    )
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    losses({"image": images}, tokenizer(images), 0).total.backward()
    assert float(tokenizer.encoder.conv_in.weight.grad.abs().sum()) > 0
    names = [n for n, _ in losses.named_parameters()]
    assert all("projectors" in n for n in names) and bool(names) == (reads == "latents.main")
    assert losses.random_weights == ["semantic_cosine"]
    assert set(losses.state_dict()) == set(names)


def test_what_does_not_fit_is_said_before_training(tokenizer_node) -> None:
    with pytest.raises(UserError, match=r"16 channels.*8.*projector=linear"):
        losses_of(tokenizer_node | {"encoder": tokenizer_node["encoder"] | {"dim": 16}}, reads="codes.main")
    with pytest.raises(UserError, match=r"reads=heads\.semantic: the tokenizer has no such heads"):
        losses_of(tokenizer_node)
    with pytest.raises(UserError, match=r"loss\.semantic_cosine\.term\.teacher=other: no such teacher"):
        losses_of(tokenizer_node, teacher="other", reads="codes.main")
    with pytest.raises(MissingWeights, match=r"teacher\.t\.weights=no\.pt: no such file; make it with: imtok"):
        NamedTeachers({"t": TEACHER | {"weights": "no.pt", "made_by": "imtok train-teacher"}}).get("t", asked_by="x")


def test_an_unused_teacher_is_not_loaded(tokenizer_node) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer")
    node = {"l1": {"term": {"_target_": "imtok.losses.pixel.L1"}}}
    losses = WeightedLosses.from_config(node, tokenizer, NamedTeachers({"giant": {"_target_": "no.such.Thing"}}))
    assert any("giant" in note for note in losses.notes)


def test_every_teacher_yaml_composes_tiny() -> None:
    from pathlib import Path

    from imtok.configs.compose import compose_config

    folder = Path(__file__).parents[3] / "configs" / "teacher"
    names = sorted(f.stem for f in folder.glob("*.yaml"))
    words = ["experiment=quickstart", "debug=tiny", f"teacher=[{','.join(names)}]"]
    nodes = compose_config("train", words)["teacher"]
    assert set(nodes) == set(names)
    assert all(yaml.safe_load((folder / f"{n}.yaml").read_text()).keys() == {n} for n in names)
    teachers = NamedTeachers(nodes)
    for name in names:
        seen = teachers.get(name, asked_by="test")(torch.rand(2, 3, 32, 32) * 2 - 1)
        assert seen.tokens_BND.shape[2] == teachers.get(name, asked_by="test").tokens_dim
        assert seen.tokens_BND.shape[1] == seen.grid[0] * seen.grid[1]
        assert seen.pooled_BD.shape[1] == teachers.get(name, asked_by="test").pooled_dim
