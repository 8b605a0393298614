"""How UniTok's decoder and projections start, against the closed forms of their distributions."""

import pytest
import torch
from torch import nn

from imtok.configs.compose import compose_config
from imtok.decoders.vitamin import ViTaminDecoder
from imtok.layers.attention_projection import AttentionProjection
from imtok.tokenizers.quantizers.multi_codebook import MultiCodebook

SMALL = {"dim": 64, "depth": 1, "num_heads": 2, "conv_widths": (32, 64), "conv_depths": (1, 2)}


def deviation(weight: torch.Tensor) -> float:
    return float(weight.detach().double().square().mean().sqrt())


def test_convolutions_start_by_xaviers_rule_times_a_half() -> None:
    decoder = ViTaminDecoder(conv_gain=0.5, **SMALL)
    for name, part in decoder.named_modules():
        if isinstance(part, nn.Conv2d):
            taps = part.kernel_size[0] * part.kernel_size[1]
            fans = (
                part.in_channels // part.groups + part.out_channels
            ) * taps  # as torch counts those of depthwise ones
            assert deviation(part.weight) == pytest.approx(0.5 * (2 / fans) ** 0.5, rel=0.1), name
            assert not part.bias.any()
        elif isinstance(part, nn.Linear):
            assert deviation(part.weight) == pytest.approx(0.02, rel=0.1), name
            assert not part.bias.any()
    torch.manual_seed(3)
    default = ViTaminDecoder(**SMALL).stem.conv2
    torch.manual_seed(3)
    assert torch.equal(ViTaminDecoder(conv_gain=None, **SMALL).stem.conv2.weight, default.weight)
    assert default.bias.any()
    with pytest.raises(ValueError, match="conv_gain=0: a number above 0, or null"):
        ViTaminDecoder(conv_gain=0, **SMALL)


def test_projections_start_from_small_weights() -> None:
    quantizer = MultiCodebook(dim=128, code_dim=64, codebook_size=16, projection="attention", projection_std=0.02)
    for projection in (quantizer.project_in, quantizer.project_out):
        assert isinstance(projection, AttentionProjection)
        for name, part in projection.named_modules():
            if isinstance(part, nn.Linear):
                assert deviation(part.weight) == pytest.approx(0.02, rel=0.05), name
                assert part.bias is None or not part.bias.any()


def test_unitok_starts_and_steps_as_published() -> None:
    """models/__init__.py, trainer.py and the defaults of utils/config.py of FoundationVision/UniTok."""
    for experiment in ("unitok", "unitok_clip"):
        config = compose_config("train", [f"experiment={experiment}"])
        adversary, tokenizer = config["adversary"], config["tokenizer"]
        assert (tokenizer["decoder"]["conv_gain"], tokenizer["quantizer"]["projection_std"]) == (0.5, 0.02)
        assert tokenizer["quantizer"]["revive_below"] == 0
        assert adversary["adaptive"]["eps"] == 1e-6
        assert adversary["consistency"]["augment"].get("blur_updates", 0) == 0
        assert adversary["discriminator"]["augment"]["blur_updates"] == 2 * adversary["ramp"]
        for optimizer in (config["optimizer"], adversary["optimizer"]):
            assert (optimizer["eps"], optimizer["decay"]) == (1e-6, "arrays")
