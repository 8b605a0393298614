"""Sizes of the published network, and what a grid promises. The decoder is tested beside its encoder."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.cnn import CNNDecoder
from imtok.tokenizers.encoders.cnn import CNNEncoder

SMALL = {"channels": 32, "channel_multipliers": [1, 2], "blocks_per_level": 1, "z_channels": 8}


def parameters_without_projection(module: torch.nn.Module) -> float:
    return sum(p.numel() for name, p in module.named_parameters() if not name.startswith("project")) / 1e6


@pytest.mark.parametrize(("blocks", "encoder_m", "decoder_m"), [(2, 29.30, 42.45), (4, 46.75, 59.90)])
def test_parameter_counts_of_vqgan_and_ibq(blocks: int, encoder_m: float, decoder_m: float) -> None:
    with torch.device("meta"):
        encoder, decoder = CNNEncoder(blocks_per_level=blocks), CNNDecoder(blocks_per_level=blocks)
    assert parameters_without_projection(encoder) == pytest.approx(encoder_m, abs=0.005)
    assert parameters_without_projection(decoder) == pytest.approx(decoder_m, abs=0.005)


def test_shapes_agree_with_what_is_promised() -> None:
    encoder, decoder = CNNEncoder(dim=6, **SMALL), CNNDecoder(dim=6, **SMALL)
    images = torch.randn(2, 3, 16, 24)
    latents = encoder(images)
    promised = encoder.stream_shapes((16, 24))["main"]
    assert latents["main"].x_BND.shape == (2, promised.num_tokens, 6)
    assert latents["main"].grid == promised.grid == (8, 12)
    assert decoder(latents).shape == images.shape


def test_tokens_run_row_by_row() -> None:
    encoder = CNNEncoder(dim=6, **SMALL)
    images = torch.randn(1, 3, 16, 16)
    z = encoder.project(encoder.features(images))
    torch.testing.assert_close(encoder(images)["main"].x_BND[0, 8 * 3 + 5], z[0, :, 3, 5])


def test_channels_last_gives_the_same_and_stays_channels_last() -> None:
    encoder, decoder = CNNEncoder(dim=6, **SMALL), CNNDecoder(dim=6, **SMALL)
    images = torch.randn(2, 3, 16, 16)
    expected = decoder(encoder(images))
    encoder, decoder = encoder.to(memory_format=torch.channels_last), decoder.to(memory_format=torch.channels_last)
    actual = decoder(encoder(images.to(memory_format=torch.channels_last)))
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_attention_sits_where_it_is_asked_for() -> None:
    codes = {"main": Stream(torch.randn(1, 64, 6), (8, 8))}
    for levels in ([], [0], [0, -1]):
        names = [type(m).__name__ for m in CNNEncoder(dim=6, **SMALL, attention_levels=levels).levels.modules()]
        assert names.count("SpatialAttention") == len(levels)
        decoder = CNNDecoder(dim=6, **SMALL, attention_levels=levels)
        assert decoder(codes).shape == (1, 3, 16, 16)
        assert [type(m).__name__ for m in decoder.levels.modules()].count("SpatialAttention") == 2 * len(levels)
    with pytest.raises(ValueError, match=r"attention_levels=\[2\]"):
        CNNEncoder(dim=6, **SMALL, attention_levels=[2])
