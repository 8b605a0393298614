"""Semantic terms at the edges: masks, scales, unit length, what takes part, what is published and what is refused."""

import inspect
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.types import Quantized, Stream, TokenizerOutput
from imtok.common.weights import Weights
from imtok.losses.semantic.contrastive import ClipInfoNCE, ContrastiveTerm, SigLIP
from imtok.losses.semantic.gram import SemanticGram
from imtok.losses.semantic.infonce import SemanticInfoNCE
from imtok.losses.semantic.pairs import symmetric_infonce
from imtok.losses.semantic.tower_cosine import TowerCosine
from imtok.losses.teachers.base import SemanticTeacher, TeacherFeatures
from imtok.losses.teachers.text_tower import TextTower

SMALL = {"width": 8, "layers": 1, "heads": 2, "dim": 6, "max_tokens": 16}


class Given(SemanticTeacher):
    """Vectors of 4 channels, and tokens of 4 or another width."""

    def __init__(self, pooled_BD: torch.Tensor, tokens_BND: torch.Tensor | None = None) -> None:
        super().__init__(interpolation="bilinear")
        self.origin = Weights(source="random", random=True)
        self.pooled_BD, self.tokens_BND = pooled_BD, pooled_BD[:, None] if tokens_BND is None else tokens_BND
        self.pooled_dim, self.tokens_dim = pooled_BD.shape[1], self.tokens_BND.shape[2]
        self._finish(image_size=4, mean=(0, 0, 0), deviation=(1, 1, 1))

    def features(self, prepared: torch.Tensor) -> TeacherFeatures:
        return TeacherFeatures(self.tokens_BND, (1, self.tokens_BND.shape[1]), self.pooled_BD)


def output_of(codes: Stream, **more) -> TokenizerOutput:
    return TokenizerOutput({"main": codes}, Quantized({"main": codes}, {}, **more), None)


def encoder_of(branches: int, width: int) -> SimpleNamespace:
    encoder = nn.Module()
    encoder.branches, encoder.project = branches, nn.Linear(width, 3)
    return SimpleNamespace(encoder=encoder)


@pytest.mark.parametrize(
    ("term", "published"),
    [
        (ClipInfoNCE, {"temperature": 0.07, "max_scale": 100.0, "reads": "codes.main", "projector": "linear"}),
        (SigLIP, {"scale": 10.0, "bias": -10.0, "reads": "codes.main", "projector": "linear"}),
        (SemanticInfoNCE, {"branch": -1, "teacher_reads": "pooled", "scale": 1.0, "unit_length": False}),
        (SemanticInfoNCE, {"leave_out": 0.0, "teacher": "dinov2_b_16"}),
        (SemanticGram, {"over": "tokens", "projector": "none", "reads": "heads.semantic"}),
        (TowerCosine, {"reads": "heads.semantic", "target": "encoder.semantic.tower"}),
    ],
)
def test_defaults(term: type, published: dict) -> None:
    found = inspect.signature(term).parameters
    assert {name: found[name].default for name in published} == published


def test_flags_of_terms() -> None:
    assert ContrastiveTerm.needs_captions and ContrastiveTerm.saved_with_export and TowerCosine.saved_with_export
    assert not ContrastiveTerm.needs_reconstruction and not SemanticInfoNCE.saved_with_export


@pytest.mark.parametrize("share", [1.0, 1.5, -0.01])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    SemanticInfoNCE(leave_out=0.99)
    SemanticInfoNCE(leave_out=0)
    with pytest.raises(ValueError, match=rf"^leave_out={share}: "):
        SemanticInfoNCE(leave_out=share)


def infonce(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    own = torch.arange(len(a))
    return (F.cross_entropy(a @ b.T, own) + F.cross_entropy(b @ a.T, own)) / 2


@pytest.mark.parametrize(("share", "first"), [(0.0, 0), (0.19, 0), (0.2, 1), (0.5, 2), (0.99, 4)])
def test_the_first_images_are_left_out(share: float, first: int) -> None:
    pooled, codes = torch.randn(5, 4), torch.randn(5, 2, 6)
    term, tokenizer = SemanticInfoNCE(leave_out=share), encoder_of(2, 4)
    term.learn_from(Given(pooled))
    assert term.misfit(tokenizer) is None
    found = term({"image": torch.zeros(5, 3, 4, 4)}, output_of(Stream(codes)))
    a, b = tokenizer.encoder.project(pooled)[first:], codes[first:, :, 3:].mean(dim=1)
    torch.testing.assert_close(found, infonce(a, b))


def test_both_sides_of_unit_length_and_a_scale() -> None:
    pooled, codes = torch.randn(5, 4), torch.randn(5, 2, 6)
    term, tokenizer = SemanticInfoNCE(unit_length=True, scale=7.0, branch=0), encoder_of(2, 4)
    term.learn_from(Given(pooled))
    assert term.misfit(tokenizer) is None
    found = term({"image": torch.zeros(5, 3, 4, 4)}, output_of(Stream(codes)))
    a, b = F.normalize(tokenizer.encoder.project(pooled), dim=1), F.normalize(codes[..., :3].mean(dim=1), dim=1)
    torch.testing.assert_close(found, infonce(7 * a, b))


@pytest.mark.parametrize(("branch", "fits"), [(-3, False), (-2, True), (0, True), (1, True), (2, False)])
def test_branches_are_counted_from_either_end(branch: int, fits: bool) -> None:
    term = SemanticInfoNCE(branch=branch)
    term.learn_from(Given(torch.zeros(2, 4)))
    assert (term.misfit(encoder_of(2, 4)) is None) is fits


def test_patches_may_have_another_width_than_the_class_token() -> None:
    term = SemanticInfoNCE(teacher_reads="patches")
    term.learn_from(Given(torch.zeros(2, 4), torch.zeros(2, 3, 5)))
    assert term.misfit(encoder_of(1, 5)) is None
    assert "5 features, tokenizer.encoder.width is 4" in term.misfit(encoder_of(1, 4))
    term = SemanticInfoNCE()
    term.learn_from(Given(torch.zeros(2, 4), torch.zeros(2, 3, 5)))
    assert term.misfit(encoder_of(1, 4)) is None
    linear = SimpleNamespace(encoder=SimpleNamespace(project=nn.Linear(4, 3)))
    assert "no branches" in term.misfit(linear)


def test_a_scale_begins_where_its_schedule_does() -> None:
    term = SemanticInfoNCE(scale={"start": 2.0, "end": 4.0, "updates": 10})
    assert term.scale == 2.0
    term.set_update(5)
    assert term.scale == 3.0


def test_nobody_takes_part_and_gradients_are_zero() -> None:
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loss = symmetric_infonce(a, b, torch.zeros(3, dtype=torch.bool), scale=1.0, join=True)
    loss.backward()
    assert float(loss.detach()) == 0 and not a.grad.any() and not b.grad.any()
    one = torch.tensor([False, True, False])
    assert float(symmetric_infonce(a, b, one, scale=1.0, join=False).detach()) == pytest.approx(
        0, abs=1e-6
    )  # no others


def test_sums_keep_full_precision_under_autocast() -> None:
    a, b = (F.normalize(torch.randn(6, 16), dim=1) for _ in range(2))
    codes = Stream(a[:, None])
    for term in (ClipInfoNCE(tower=TextTower(**SMALL)), SigLIP(tower=TextTower(**SMALL))):
        term.texts = lambda captions: b
        batch = {"caption": ["a"] * 6}
        expected = term(batch, output_of(codes))
        with torch.autocast("cpu", torch.bfloat16):
            found = term(batch, output_of(codes))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    term = SemanticInfoNCE(scale=30.0)
    term.project, term.network = nn.Identity(), Given(b)
    batch = {"image": torch.zeros(6, 3, 4, 4)}
    expected = term(batch, output_of(codes))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(term(batch, output_of(codes)), expected, rtol=1e-5, atol=1e-6)


def test_images_and_captions_are_compared_at_unit_length() -> None:
    codes, texts = torch.randn(3, 2, 6), torch.randn(3, 6)
    term = ClipInfoNCE(tower=TextTower(**SMALL), projector="none")
    term.texts = lambda captions: texts
    found = term({"caption": ["a", "b", "c"]}, output_of(Stream(codes)))
    unit = [F.normalize(x, dim=1) for x in (codes.mean(dim=1), texts)]
    torch.testing.assert_close(found, infonce(unit[0] / 0.07, unit[1]))
    torch.testing.assert_close(term.eval()({"caption": ["a", "b", "c"]}, output_of(Stream(codes))), found)


def test_clips_scale_stays_above_1() -> None:
    term = ClipInfoNCE(tower=TextTower(**SMALL), max_scale=3.0)
    a, b = (F.normalize(torch.randn(4, 5), dim=1) for _ in range(2))
    for log_scale, scale in ((-2.0, 1.0), (0.5, 1.6487213), (9.0, 3.0)):
        with torch.no_grad():
            term.log_scale.fill_(log_scale)
        term.after_step()
        torch.testing.assert_close(term.loss(a, b), infonce(scale * a, b))


def contrastive_misfit(width: int, **settings: str) -> tuple[str | None, ContrastiveTerm]:
    term = SigLIP(tower=TextTower(**SMALL), **settings)
    tokenizer = nn.Module()
    tokenizer.quantizer, tokenizer.decoder = nn.Module(), nn.Module()
    tokenizer.quantizer.out_dim = width
    return term.misfit(tokenizer), term


def test_a_contrastive_terms_projection_goes_from_what_is_read_to_the_tower() -> None:
    reason, term = contrastive_misfit(5)
    assert reason is None and (term.projector.in_features, term.projector.out_features) == (5, 6)
    reason, term = contrastive_misfit(5, projector="mlp")
    assert reason is None and [p.shape[0] for p in term.projector.parameters()] == [6, 6, 6, 6]
    assert contrastive_misfit(6, projector="none")[0] is None
    assert "5 channels are read, and the text tower gives 6" in contrastive_misfit(5, projector="none")[0]
    assert "its width is not known" in contrastive_misfit(5, reads="features.decoder")[0]
    assert "no such codes" in contrastive_misfit(5, reads="codes.fine")[0]
    with pytest.raises(ValueError, match=r"^tower: "):
        SigLIP(tower=nn.Identity())


def test_one_image_without_a_caption_is_enough_to_stop() -> None:
    term = SigLIP(tower=TextTower(**SMALL))
    with pytest.raises(ValueError, match="needs captions"):
        term({"caption": ["a star", None]}, output_of(Stream(torch.zeros(2, 1, 6))))


@pytest.mark.parametrize("over", ["tokens", "channels"])
def test_grams_of_masked_tokens(over: str) -> None:
    """What is masked is as good as zero; channels' products are means over all places."""
    ours, theirs = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False]])
    term = SemanticGram(teacher="t", reads="codes.main", over=over)
    assert term.needs_same_width is (over == "channels")
    term.learn_from(Given(torch.zeros(2, 4), theirs))
    wide = nn.Module()
    wide.quantizer, wide.decoder = nn.Module(), nn.Module()
    wide.quantizer.out_dim = 8
    assert (term.misfit(wide) is None) is (over == "tokens")  # cosines know no width

    def gram(x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        x = (F.normalize(x, dim=-1) if over == "tokens" else x) * kept[:, None]
        return x @ x.T if over == "tokens" else x.T @ x / 4

    expected = sum(((gram(a, m) - gram(b, m)) ** 2).mean() for a, b, m in zip(ours, theirs, mask, strict=True)) / 2
    found = term({"image": torch.zeros(2, 3, 4, 4)}, output_of(Stream(ours, (1, 4), mask)))
    torch.testing.assert_close(found, expected)


def tower_tokenizer(**flags: bool) -> nn.Module:
    tokenizer = nn.Module()
    tokenizer.heads = nn.ModuleDict({"semantic": nn.Identity()})
    tokenizer.encoder = nn.ModuleDict({"tower": nn.Identity(), "other": nn.Identity()})
    tokenizer.decoder = nn.Identity()
    for name, flag in flags.items():
        tokenizer.encoder[name].frozen_from_nothing = flag
    return tokenizer


@pytest.mark.parametrize(
    ("flags", "random"), [({}, False), ({"tower": True}, True), ({"other": True}, False), ({"tower": False}, False)]
)
def test_a_tower_frozen_with_random_weights_is_marked(flags: dict[str, bool], random: bool) -> None:
    term = TowerCosine(target="encoder.tower")
    assert term.misfit(tower_tokenizer(**flags)) is None
    assert term.weights_are_random is random
    assert "no such heads" in TowerCosine(reads="heads.other").misfit(tower_tokenizer())


def test_a_towers_cosine_skips_excluded_samples_and_reports_each_image() -> None:
    head, tower = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    stream = Stream(head)
    output = TokenizerOutput(
        {"main": stream},
        Quantized({"main": stream}, {}, sample_mask=torch.tensor([True, False, True])),
        None,
        heads={"semantic": head},
        features={"encoder.semantic.tower": tower},
    )
    term = TowerCosine()
    assert term.taps == {"encoder.semantic.tower": "encoder.semantic.tower"}
    assert term.compare == ("tokens",) and term.compared_with == "encoder.semantic.tower"
    cosine = F.cosine_similarity(head, tower, dim=-1).mean(dim=1)
    torch.testing.assert_close(term.cosine_to_teacher(torch.zeros(3, 3, 4, 4), output), cosine)
    torch.testing.assert_close(term({}, output), 1 - cosine[[0, 2]].mean())
