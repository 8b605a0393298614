"""MaskGIT's network: published size, its odd residual block, and our range of images outside of its own."""

import pytest
import torch
import torch.nn.functional as F

from imtok.decoders.cnn_maskgit import CNNMaskgitDecoder
from imtok.layers.maskgit import MaskgitResBlock
from imtok.tokenizers.encoders.cnn_maskgit import CNNMaskgitEncoder

SMALL = {"channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1}


def test_published_parameter_count() -> None:
    with torch.device("meta"):
        parts = [CNNMaskgitEncoder(), CNNMaskgitDecoder()]
    count = sum(p.numel() for part in parts for p in part.parameters()) + 1024 * 256
    assert count / 1e6 == pytest.approx(54.52, abs=0.01)


def test_a_block_that_widens_forgets_its_input() -> None:
    block, x = MaskgitResBlock(channels_in=32, channels_out=64), torch.randn(2, 32, 6, 6)
    h = F.conv2d(F.silu(F.group_norm(x, 32, block.norm1.weight, block.norm1.bias, 1e-6)), block.conv1.weight, padding=1)
    h = F.conv2d(F.silu(F.group_norm(h, 32, block.norm2.weight, block.norm2.bias, 1e-6)), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), h + F.conv2d(h, block.skip.weight))
    assert MaskgitResBlock(channels_in=32, channels_out=32).skip is None


def test_images_stay_in_our_range() -> None:
    encoder, decoder = CNNMaskgitEncoder(dim=6, **SMALL), CNNMaskgitDecoder(dim=6, **SMALL)
    black = torch.full((1, 3, 16, 16), -1.0)
    with torch.no_grad():
        encoder.conv_in.weight.normal_()
    inside = []
    encoder.conv_in.register_forward_hook(lambda module, given, out: inside.append(given[0]))
    latents = encoder(black)
    assert torch.equal(inside[0], torch.zeros_like(black))  # its own black
    with torch.no_grad():
        decoder.conv_out.weight.zero_()
        decoder.conv_out.bias.fill_(1.0)  # its own white
    torch.testing.assert_close(decoder(latents), torch.ones(1, 3, 16, 16))


def test_shapes_agree_with_what_is_promised() -> None:
    encoder, decoder = CNNMaskgitEncoder(dim=6, **SMALL), CNNMaskgitDecoder(dim=6, **SMALL)
    images = torch.randn(2, 3, 16, 24)
    latents = encoder(images)
    assert latents["main"].grid == encoder.stream_shapes((16, 24))["main"].grid == (8, 12)
    assert latents["main"].x_BND.shape == (2, 96, 6)
    assert decoder(latents).shape == images.shape
