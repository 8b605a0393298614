"""Terms at the edges: what is taken and refused, what is published, what a batch without anything to read gives."""

import inspect
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import convnext_tiny

from imtok.common.errors import UserError
from imtok.common.types import Grid, Quantized, Stream, TokenizerOutput
from imtok.common.weights import Weights
from imtok.losses.base import LossTerm, mean_over_samples
from imtok.losses.convnext import ConvNeXt, ConvNeXtNet
from imtok.losses.direct_decode import DirectDecode
from imtok.losses.feature_alignment import FeatureAlignment, image_grid
from imtok.losses.feature_match import FeatureMatch
from imtok.losses.lpips import LPIPS, LPIPSNet
from imtok.losses.pixel import L1, L2
from imtok.losses.proxy_codes import ProxyCodes, ProxyNet, fingerprints
from imtok.losses.quantizer import DecoderTerm, PartTerm, QuantizerTerm
from imtok.losses.semantic.cosine import SemanticCosine, SemanticMSECosine
from imtok.losses.source import Reading
from imtok.losses.teacher_term import FeatureTerm, mean_over_tokens, projection, resampled
from imtok.losses.teachers.base import SemanticTeacher, TeacherFeatures
from imtok.losses.total import WeightedLosses


class Table(SemanticTeacher):
    """2x2 tokens of 3 channels and a pooled vector of 5."""

    tokens_dim, pooled_dim = 3, 5

    def __init__(self) -> None:
        super().__init__(interpolation="bilinear")
        self.origin = Weights(source="random", random=True)
        self._finish(image_size=4, mean=(0, 0, 0), deviation=(1, 1, 1))

    def features(self, prepared: torch.Tensor) -> TeacherFeatures:
        means = F.adaptive_avg_pool2d(prepared, 2).flatten(2).transpose(1, 2)
        return TeacherFeatures(means, (2, 2), means.mean(dim=1)[:, [0, 1, 2, 0, 1]])


def streams(codes: torch.Tensor, **features: torch.Tensor) -> TokenizerOutput:
    stream = Stream(codes, (2, 2))
    return TokenizerOutput({"main": stream}, Quantized({"main": stream}, {}), None, features=features)


def taught(term):
    term.learn_from(Table())
    return term


def test_a_term_is_plain_until_it_says_otherwise() -> None:
    flags = ("needs_reconstruction", "needs_captions", "free", "optional", "saved_with_export")
    assert [getattr(LossTerm, flag) for flag in flags] == [False] * 5 and not LossTerm.taps
    assert L1.needs_reconstruction and PartTerm.free and not PartTerm.needs_reconstruction
    assert FeatureTerm.saved_with_export and not FeatureAlignment.saved_with_export and FeatureTerm.needs_same_width
    assert L1().is_available(None) and not L1().weights_are_random


@pytest.mark.parametrize(
    ("term", "published"),
    [
        (ConvNeXt, {"size": "small", "side": 224, "weights": "pretrained"}),
        (ConvNeXtNet, {"size": "small", "side": 224, "weights": "pretrained"}),
        (LPIPS, {"net": "vgg", "weights": "pretrained", "skip_masked_samples": False}),
        (LPIPSNet, {"net": "vgg", "weights": "pretrained", "setting": "weights"}),
        (L1, {"skip_masked_samples": False}),
        (FeatureAlignment, {"projector": 2048, "dim": None}),
        (ProxyCodes, {"weights": "pretrained", "precision": "auto", "store": False}),
        (QuantizerTerm, {"optional": False}),
    ],
)
def test_defaults(term, published) -> None:
    found = inspect.signature(term).parameters
    assert {name: found[name].default for name in published} == published


def test_the_mean_over_one_kept_sample_or_token_is_its_value() -> None:
    values, one = torch.tensor([3.0, 5.0]), torch.tensor([False, True])
    assert float(mean_over_samples(values, one)) == 5 and float(mean_over_samples(values, None)) == 4
    assert float(mean_over_samples(values, ~one & one)) == 0
    assert mean_over_tokens(values[None].repeat(3, 1), torch.stack([one, ~one, one & ~one])).tolist() == [5, 3, 0]


def test_a_large_image_is_shrunk_without_aliases_before_convnext(tmp_path) -> None:
    reference = convnext_tiny().eval()
    for block in reference.modules():
        if isinstance(getattr(block, "layer_scale", None), nn.Parameter):
            nn.init.ones_(block.layer_scale)
    torch.save(reference.state_dict(), tmp_path / "net.pth")
    net = ConvNeXtNet(size="tiny", side=32, weights=str(tmp_path / "net.pth"))
    a, b = torch.rand(2, 1, 3, 80, 64) * 2 - 1
    small = [F.interpolate(x, (32, 32), mode="bilinear", align_corners=False, antialias=True) for x in (a, b)]
    torch.testing.assert_close(net(a, b), net(*small), rtol=1e-4, atol=1e-6)
    assert not any(p.requires_grad for p in net.parameters()) and not net.training


def test_a_target_gets_no_gradient_and_a_random_network_moves_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    nets = [ConvNeXtNet(size="tiny", side=32, weights="random")]
    assert torch.equal(torch.rand(2), expected)
    nets.append(ConvNeXtNet(size="tiny", side=32, weights="random"))  # from another state of the generator
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    a, b = (torch.rand(1, 3, 32, 32).requires_grad_() for _ in range(2))
    nets[0](a, b).sum().backward()
    assert float(a.grad.abs().sum()) > 0 and b.grad is None


def test_convnext_takes_32_pixels_and_not_31() -> None:
    ConvNeXtNet(size="tiny", side=32, weights="random")
    with pytest.raises(ValueError, match=r"^side=31: "):
        ConvNeXtNet(size="tiny", side=31, weights="random")


def test_random_lpips_is_kaimings_normal_with_zero_biases() -> None:
    net = LPIPSNet(net="alex", weights="random")
    for conv in (net.features[3], net.features[6]):
        spread = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert float(conv.weight.std()) == pytest.approx(spread, rel=0.02) and not conv.bias.any()
    assert not net.training


@pytest.mark.parametrize(("net", "smallest"), [("alex", 31), ("vgg", 16)])
def test_lpips_takes_its_smallest_image(FakeTokenizer, net: str, smallest: int) -> None:
    term = LPIPS(net=net, weights="random")
    assert term.misfit(FakeTokenizer(image_size=(smallest, 99))) is None
    assert f"{smallest} pixels" in term.misfit(FakeTokenizer(image_size=(99, smallest - 1)))
    assert "reconstruction" in term.misfit(FakeTokenizer(cheap=False))
    images = torch.rand(1, 3, smallest - 1, 40)
    with pytest.raises(UserError, match=f"{smallest} pixels"):
        term.net(images, images)


class Painter(nn.Module):
    """A decoder that paints a map as it is."""

    cheap_sample = True

    def paint(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_direct_decode_sums_its_terms_and_says_what_cannot_paint() -> None:
    term = DirectDecode(terms={"l1": L1(), "l2": L2()}, feature="trunk")
    assert term.taps == {"trunk": "trunk"}
    assert DirectDecode(terms={}).feature == "encoder.conv_out"
    assert "cannot decode a map" in term.misfit(SimpleNamespace(decoder=nn.Identity()))
    assert term.misfit(SimpleNamespace(decoder=Painter())) is None
    painted, image = torch.rand(2, 2, 3, 4, 4)
    output = streams(torch.zeros(2, 4, 3), trunk=painted)
    expected = F.l1_loss(painted, image) + F.mse_loss(painted, image)
    torch.testing.assert_close(term({"image": image}, output), expected)
    assert term.is_available(output) and not term.is_available(streams(torch.zeros(2, 4, 3)))


def test_matching_needs_both_features() -> None:
    term, x = FeatureMatch(feature="a", target="b"), torch.zeros(1, 2)
    assert term.taps == {"a": "a", "b": "b"}
    found = [term.is_available(streams(torch.zeros(1, 4, 3), **f)) for f in ({}, {"a": x}, {"b": x}, {"a": x, "b": x})]
    assert found == [False, False, False, True]


@pytest.mark.parametrize(
    ("count", "size", "grid"), [(6, (20, 30), (2, 3)), (6, (30, 20), (3, 2)), (49, (224, 224), (7, 7))]
)
def test_a_grid_is_shaped_like_the_image(count: int, size: Grid, grid: Grid) -> None:
    assert image_grid(count, size) == grid


@pytest.mark.parametrize(("count", "size"), [(7, (32, 32)), (1, (1, 16))])
def test_vectors_that_are_no_grid(count: int, size: Grid) -> None:
    with pytest.raises(AssertionError, match="are no grid"):
        image_grid(count, size)


def test_repas_projector_is_three_layers() -> None:
    term = taught(FeatureAlignment(teacher="t", feature="f", projector=7, dim=6))
    assert term.taps == {"f": "f"}
    layers = [p.shape for p in term.projector.parameters() if p.ndim == 2]
    assert layers == [(7, 6), (7, 7), (3, 7)] and sum(isinstance(m, nn.SiLU) for m in term.projector) == 2
    x, image = torch.randn(2, 4, 6), torch.rand(2, 3, 4, 4)
    one, _, two, _, three = term.projector
    ours = three(F.silu(two(F.silu(one(x)))))
    theirs = F.adaptive_avg_pool2d((image + 1) / 2, 2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(
        term({"image": image}, streams(torch.zeros(2, 4, 3), f=x)), (1 - F.cosine_similarity(ours, theirs, -1)).mean()
    )
    FeatureAlignment(teacher="t", feature="f", projector=None)  # needs no dim


def test_a_projection_is_linear_or_two_layers() -> None:
    assert isinstance(projection(4, 3, kind="linear"), nn.Linear)
    first, activation, second = projection(4, 3, kind="mlp")
    assert (first.in_features, first.out_features) == (4, 3) and isinstance(activation, nn.GELU)
    assert (second.in_features, second.out_features) == (3, 3)


def tokenizer_of(width: int, **heads: int) -> nn.Module:
    parts = {name: SimpleNamespace(out_dim=dim) for name, dim in heads.items()}
    tokenizer = nn.Module()
    tokenizer.decoder = nn.Module()
    tokenizer.decoder.cheap_sample = False
    tokenizer.quantizer, tokenizer.encoder = nn.Module(), nn.Module()
    tokenizer.quantizer.out_dim, tokenizer.encoder.dim = width, {"main": width, "fine": width + 1}
    tokenizer.heads = nn.ModuleDict({name: nn.Module() for name in parts})
    for name, dim in heads.items():
        tokenizer.heads[name].out_dim = dim
    return tokenizer


def test_widths_of_what_is_read() -> None:
    tokenizer = tokenizer_of(8, semantic=5)
    texts = ("codes.main", "latents.fine", "heads.semantic", "features.encoder")
    assert [Reading.parse(text).width(tokenizer) for text in texts] == [8, 9, 5, None]
    assert [Reading.parse(text).misfit(tokenizer) for text in texts] == [None] * 4
    for text in ("codes.fine", "latents.coarse", "heads.other"):
        assert f"reads={text}: the tokenizer has no such" in Reading.parse(text).misfit(tokenizer)


def test_a_feature_term_asks_for_the_teachers_widths() -> None:
    def misfit(width: int, **settings: str) -> str | None:
        return taught(SemanticCosine(teacher="t", **{"reads": "codes.main"} | settings)).misfit(tokenizer_of(width))

    assert misfit(3) is None and misfit(5, compare="pooled") is None
    assert "8 channels, the teacher's tokens have 3" in misfit(8)
    assert "3 channels, the teacher's pooled have 5" in misfit(3, compare="both")
    assert misfit(8, compare="both", projector="linear") is None
    assert "width of features is not known" in misfit(8, reads="features.encoder", projector="mlp")
    assert misfit(8, reads="features.encoder") is None  # known when it runs
    assert "compares a reconstruction" in misfit(3, reads="reconstruction")


def test_projectors_stand_before_the_comparison_on_tokens_and_pooled() -> None:
    term = taught(SemanticMSECosine(teacher="t", reads="codes.main", compare="both", projector="linear"))
    assert term.misfit(tokenizer_of(8)) is None and term.compared_with == "t"
    assert {k: (p.in_features, p.out_features) for k, p in term.projectors.items()} == {
        "tokens": (8, 3),
        "pooled": (8, 5),
    }
    codes, image = torch.randn(2, 4, 8), torch.rand(2, 3, 4, 4)
    seen = term.network(image)
    a, b = term.projectors["tokens"](codes), term.projectors["pooled"](codes.mean(dim=1))
    cosine, pooled = (
        F.cosine_similarity(a, seen.tokens_BND, -1).mean(1),
        F.cosine_similarity(b, seen.pooled_BD, -1),
    )
    expected = F.mse_loss(a, seen.tokens_BND) + F.mse_loss(b, seen.pooled_BD) - cosine.mean() - pooled.mean()
    torch.testing.assert_close(term({"image": image}, streams(codes)), expected)
    torch.testing.assert_close(term.cosine_to_teacher(image, streams(codes)), (cosine + pooled).detach() / 2)
    assert not term.cosine_to_teacher(image, streams(codes)).requires_grad


def test_a_reconstruction_is_seen_by_the_teacher_with_gradients() -> None:
    term = taught(SemanticCosine(teacher="t", reads="reconstruction", compare="both"))
    made, image = torch.rand(2, 3, 4, 4).requires_grad_(), torch.rand(2, 3, 4, 4)
    loss = term({"image": image}, TokenizerOutput({}, Quantized({}, {}), made))
    a, b = term.network.features((made + 1) / 2), term.network.features((image + 1) / 2)
    expected = (1 - F.cosine_similarity(a.tokens_BND, b.tokens_BND, -1)).mean()
    expected = expected + (1 - F.cosine_similarity(a.pooled_BD, b.pooled_BD, -1)).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert float(made.grad.abs().sum()) > 0 and term.needs_reconstruction
    assert term.misfit(SimpleNamespace(decoder=SimpleNamespace(cheap_sample=True))) is None


def test_resampling_averages_when_the_grid_is_coarser() -> None:
    tokens = torch.randn(2, 64, 3)
    seen = TeacherFeatures(tokens, (8, 8), tokens[:, 0])
    laid = resampled(seen, Stream(torch.zeros(2, 4, 3), (2, 2)))
    image = tokens.transpose(1, 2).unflatten(2, (8, 8))
    expected = F.interpolate(image, (2, 2), mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(laid, expected)
    assert resampled(seen, Stream(torch.zeros(2, 64, 3), None)) is tokens  # as many, on no grid
    assert resampled(seen, Stream(torch.zeros(2, 64, 3), (4, 16))) is not tokens


def test_a_frozen_quantizers_terms_are_left_out_and_counted_as_read(FakeTokenizer) -> None:
    tokenizer = FakeTokenizer()
    tokenizer.frozen = ("quantizer",)
    node = {
        "l1": {"term": {"_target_": "imtok.losses.pixel.L1"}},
        "commit": {"term": {"_target_": "imtok.losses.quantizer.QuantizerTerm", "key": "commit"}},
    }
    losses = WeightedLosses.from_config(node, tokenizer)
    assert set(losses.terms) == set(losses.weights) == {"l1"}
    assert losses.notes == ["left out loss.commit: tokenizer.quantizer is frozen"]


def test_a_part_that_offers_nothing_says_none() -> None:
    tokenizer = SimpleNamespace(decoder=nn.Identity(), quantizer=nn.Identity())
    assert DecoderTerm(key="flow").misfit(tokenizer).endswith("(Identity) has no such loss; it offers none")
    assert DecoderTerm(key="flow", optional=True).optional


def test_values_of_leaves_out_weights_and_what_is_not_there(FakeTokenizer, output_of, images) -> None:
    node = {
        "l1": {"weight": 0.0, "term": {"_target_": "imtok.losses.pixel.L1"}},
        "commit": {"term": {"_target_": "imtok.losses.quantizer.QuantizerTerm", "key": "commit"}},
    }
    losses = WeightedLosses.from_config(node, FakeTokenizer(loss_names=("commit",))).eval()
    a, b = images(seed=1), images(seed=2)
    found = losses.values_of({"image": b}, output_of(a))
    assert set(found) == {"l1"} and float(found["l1"]) == pytest.approx(float(F.l1_loss(a, b)))
    assert losses.weights["commit"](0) == 1.0  # where none is given
    values = losses({"image": b}, output_of(a), 0)
    assert float(values.total) == 0 and float(values.sum_of(["l1"])) == 0
    assert losses.notes == []


class Codes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        return (images.flatten(1)[:, :2] > 0).long()


def test_stored_codes_serve_training_only() -> None:
    term, image = ProxyCodes(weights="random", store=True), torch.rand(2, 3, 4, 4) * 2 - 1
    term.net = Codes()
    logits = torch.randn(2, 2, 2)
    output = streams(torch.zeros(2, 4, 3), proxy_logits=logits)
    batch = {"image": image, "key": ["a", "b"]}
    codes = (image.flatten(1)[:, :2] > 0).long()
    expected = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
    for _ in range(2):
        torch.testing.assert_close(term(batch, output), expected)
    assert term.net.images == 2
    torch.testing.assert_close(term.eval()({"image": image}, output), expected)  # no keys in validation
    assert term.net.images == 4
    assert term.is_available(output) and not term.is_available(streams(torch.zeros(2, 4, 3)))
    assert term.train().is_available(streams(torch.zeros(2, 4, 3)))  # then it is an error, not a gap
    assert ProxyCodes(weights="random").stored is None


@pytest.mark.parametrize(
    ("precision", "units", "bf16"),
    [("bf16", False, True), ("fp32", True, False), ("auto", True, True), ("auto", False, False)],
)
def test_the_proxys_precision(monkeypatch: pytest.MonkeyPatch, precision: str, units: bool, bf16: bool) -> None:
    monkeypatch.setattr("imtok.losses.proxy_codes.has_matrix_units", lambda *_: units)
    seen = []

    class Quantizer(nn.Module):
        def forward(self, x: torch.Tensor) -> Quantized:
            seen.append(x.dtype)
            return Quantized({}, {"main": torch.ones(2, 3, 1, dtype=torch.int64)})

    net = ProxyNet(nn.Conv2d(3, 2, 1), Quantizer(), precision=precision, origin=Weights(source=None))
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    codes = net(torch.rand(2, 3, 4, 4))
    assert seen == [torch.bfloat16 if bf16 else torch.float32]
    assert codes.shape == (2, 3) and not codes.is_inference()


def test_a_fingerprint_is_a_weighted_sum_of_bytes() -> None:
    """Exact: one level in one pixel changes it, a difference below half a level does not."""
    image = torch.randint(0, 256, (1, 3, 4, 4)) / 127.5 - 1
    brighter = image.clone()
    brighter[0, 0, 0, 0] += 1 / 127.5
    step = int(fingerprints(brighter) - fingerprints(image))
    assert step == 2654435761 % 2**31
    assert torch.equal(fingerprints(image + 0.4 / 127.5), fingerprints(image))
    last = image.clone()
    last[0, 2, 3, 3] += 1 / 127.5
    assert int(fingerprints(last) - fingerprints(image)) == 48 * 2654435761 % 2**31
