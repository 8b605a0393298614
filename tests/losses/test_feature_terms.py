"""Terms that read activations of the tokenizer: matching two of its modules, a second picture, a teacher."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from imtok.common.build import build
from imtok.common.types import Stream
from imtok.losses.direct_decode import DirectDecode
from imtok.losses.feature_alignment import FeatureAlignment, image_grid
from imtok.losses.feature_match import FeatureMatch
from imtok.losses.pixel import L2
from imtok.losses.teacher_term import resampled
from imtok.losses.teachers.base import TeacherFeatures
from imtok.tokenizers.feature_taps import tap

SIZES = {"channels": 32, "channel_multipliers": [1, 1], "blocks_per_level": 1, "z_channels": 16}
SIZES |= {"width": 32, "depth": 2, "num_heads": 2, "num_tokens": 4}


@pytest.fixture
def gigatok() -> nn.Module:
    node = {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 8,
        "encoder": {"_target_": "imtok.tokenizers.encoders.cnn_qformer.CNNQFormerEncoder", "dim": 4, **SIZES},
        "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16},
        "decoder": {
            "_target_": "imtok.decoders.cnn_qformer.CNNQFormerDecoder",
            "align_after": 1,
            "align_dim": 24,
            **SIZES,
        },
    }
    return build(node, key="tokenizer")


@dataclass
class Seen:
    tokens_BND: torch.Tensor
    grid: tuple[int, int]


class Teacher(nn.Module):
    """Colours of an 8x8 picture's quarters or cells, widened: a teacher whose answers are known."""

    tokens_dim = 24

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: torch.Tensor) -> Seen:
        means = nn.functional.adaptive_avg_pool2d(images, self.side).flatten(2).transpose(1, 2)
        return Seen(means.repeat(1, 1, 8), (self.side, self.side))


def run(tokenizer: nn.Module, term: nn.Module) -> tuple[dict, object]:
    tap(tokenizer, term.taps, key="loss")
    batch = {"image": torch.rand(2, 3, 8, 8) * 2 - 1}
    return batch, tokenizer.train()(batch["image"])


def test_match_moves_the_feature_and_not_the_target(gigatok: nn.Module) -> None:
    term = FeatureMatch(feature="decoder.to_map", target="encoder.conv_out")
    batch, output = run(gigatok, term)
    loss = term(batch, output)
    a, b = output.features["decoder.to_map"], output.features["encoder.conv_out"]
    torch.testing.assert_close(loss, (a - b).square().mean())
    leaves = {name: feature.detach().requires_grad_() for name, feature in output.features.items()}
    term(batch, replace(output, features=leaves)).backward()
    assert leaves["encoder.conv_out"].grad is None
    assert leaves["decoder.to_map"].grad.abs().sum() > 0


def test_direct_decode_paints_the_encoders_map(gigatok: nn.Module) -> None:
    term = DirectDecode(terms={"l2": L2()})
    assert term.misfit(gigatok) is None
    batch, output = run(gigatok, term)
    expected = gigatok.decoder.paint(output.features["encoder.conv_out"]) - batch["image"]
    torch.testing.assert_close(term(batch, output), expected.square().mean())
    assert not list(term.parameters()), "the decoder is not the term's"


def test_alignment_is_one_minus_cosine_and_nothing_in_eval(gigatok: nn.Module) -> None:
    term = FeatureAlignment(teacher="known", feature="decoder.align", projector=None)
    term.learn_from(Teacher(4))
    batch, output = run(gigatok, term)
    ours, theirs = output.features["decoder.align"], Teacher(4)(batch["image"]).tokens_BND
    cosine = (ours * theirs).sum(-1) / ours.norm(dim=-1) / theirs.norm(dim=-1)
    torch.testing.assert_close(term(batch, output), 1 - cosine.mean(), atol=1e-5, rtol=1e-4)
    assert not list(term.parameters())
    output = gigatok.eval()(batch["image"])
    assert not term.is_available(output)


def test_a_projector_learns_and_the_teacher_does_not(gigatok: nn.Module) -> None:
    term = FeatureAlignment(teacher="known", feature="decoder.blocks.0", projector=8, dim=32)
    term.learn_from(Teacher(2))
    batch, output = run(gigatok, term)
    term(batch, output).backward()
    assert all(p.grad is not None for p in term.parameters())
    assert gigatok.encoder.conv_in.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="dim=None"):
        FeatureAlignment(teacher="known", feature="decoder.blocks.0")


def test_resampling_keeps_the_shape_of_the_picture() -> None:
    tokens = torch.arange(8.0).view(1, 8, 1)
    seen = TeacherFeatures(tokens, (2, 4), tokens[:, 0])
    for count, grid in ((8, (2, 4)), (2, (1, 2))):
        assert image_grid(count, (16, 32)) == grid
        found = resampled(seen, Stream(torch.zeros(1, count, 1), grid))
        assert found.shape == (1, count, 1)
        assert torch.equal(found, tokens) if count == 8 else found[0, 0] < found[0, 1]
