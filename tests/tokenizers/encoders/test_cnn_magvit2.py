"""The network of Open-MAGVIT2 and WeTok: published sizes, depth to space, and noise that is a picture's own."""

import pytest
import torch
import torch.nn.functional as F

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Stream
from imtok.decoders.cnn_magvit2 import CNNMagvit2Decoder
from imtok.layers.magvit2 import AdaptiveGroupNorm, depth_to_space
from imtok.tokenizers.encoders.cnn_magvit2 import CNNMagvit2Encoder

SMALL = {"channels": 32, "channel_multipliers": [1, 2, 2], "blocks_per_level": 1}


def codes(batch: int = 3, dim: int = 6) -> dict[str, Stream]:
    return {"main": Stream(torch.randn(batch, 24, dim).sign(), (4, 6))}


@pytest.mark.parametrize(
    ("dim", "channels", "multipliers", "noise", "encoder_m", "decoder_m"),
    [
        (18, 128, [1, 1, 2, 2, 4], False, 49.75, 65.38),  # Open-MAGVIT2, 256
        (32, 256, [1, 1, 2, 2, 4], False, 198.9, 261.4),  # WeTok, factor 16
        (32, 256, [1, 2, 2, 4], False, 193.6, 254.3),  # WeTok, factor 8
        (32, 256, [1, 1, 2, 2, 4, 8], True, 720.2, 953.5),  # WeTok, factor 32, generative
    ],
)
def test_published_parameter_counts(dim, channels, multipliers, noise, encoder_m, decoder_m) -> None:
    sizes = {"dim": dim, "channels": channels, "channel_multipliers": multipliers}
    with torch.device("meta"):
        encoder, decoder = CNNMagvit2Encoder(**sizes), CNNMagvit2Decoder(noise=noise, **sizes)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(encoder_m, abs=0.06)
    assert sum(p.numel() for p in decoder.parameters()) / 1e6 == pytest.approx(decoder_m, abs=0.06)


def test_shapes_agree_with_what_is_promised() -> None:
    encoder, decoder = CNNMagvit2Encoder(dim=6, **SMALL), CNNMagvit2Decoder(dim=6, **SMALL)
    images = torch.randn(2, 3, 16, 24)
    latents = encoder(images)
    promised = encoder.stream_shapes((16, 24))["main"]
    assert latents["main"].x_BND.shape == (2, promised.num_tokens, 6)
    assert latents["main"].grid == promised.grid == (4, 6)
    assert decoder(latents).shape == images.shape
    with pytest.raises(ValueError, match="multiples of 4"):
        encoder.stream_shapes((16, 18))


def test_depth_to_space_puts_whole_quarters_into_corners() -> None:
    x = torch.randn(2, 12, 3, 5)
    out = depth_to_space(x)
    for corner, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(out[:, :, row::2, column::2], x[:, 3 * corner : 3 * corner + 3])
    assert not torch.equal(out, F.pixel_shuffle(x, 2))  # the order of channels that everybody tries first
    last = depth_to_space(x.to(memory_format=torch.channels_last))
    assert torch.equal(last, out)
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_adaptive_norm_against_its_formula() -> None:
    norm = AdaptiveGroupNorm(channels=64, style_channels=5)
    x, style = torch.randn(2, 64, 4, 4), torch.randn(2, 5, 3, 3)
    spread = (style.flatten(2).numpy().var(axis=2, ddof=1) + 1e-6) ** 0.5
    scale = norm.scale(torch.from_numpy(spread))[:, :, None, None]
    shift = norm.shift(style.mean(dim=(2, 3)))[:, :, None, None]
    torch.testing.assert_close(norm(x, style), F.group_norm(x, 32, eps=1e-6) * scale + shift)
    assert bool(norm(x, style[:, :, :1, :1]).isfinite().all())  # one position has no unbiased variance


def test_channels_last_gives_the_same() -> None:
    encoder, decoder = CNNMagvit2Encoder(dim=6, **SMALL), CNNMagvit2Decoder(dim=6, **SMALL)
    images = torch.randn(2, 3, 16, 16)
    expected = decoder(encoder(images))
    encoder, decoder = encoder.to(memory_format=torch.channels_last), decoder.to(memory_format=torch.channels_last)
    actual = decoder(encoder(images.to(memory_format=torch.channels_last)))
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def test_noise_is_a_function_of_seed_and_codes_not_of_the_batch() -> None:
    decoder, given = CNNMagvit2Decoder(dim=6, noise=True, **SMALL).eval(), codes()
    together = decoder(given)
    assert torch.equal(together, decoder(given))
    alone = decoder({"main": Stream(given["main"].x_BND[1:2] * 0.7, (4, 6))})  # the signs say which noise
    same_noise = decoder({"main": Stream(given["main"].x_BND[[2, 1]] * 0.7, (4, 6))})[1:]
    torch.testing.assert_close(alone, same_noise, atol=1e-5, rtol=1e-4)
    twice = decoder({"main": Stream(given["main"].x_BND[[0, 0]], (4, 6))})
    torch.testing.assert_close(twice[0], twice[1])
    decoder.noise_seed = 1
    assert not torch.allclose(decoder(given), together, atol=1e-3)


def test_training_draws_fresh_noise_and_a_generator_overrides() -> None:
    decoder, given = CNNMagvit2Decoder(dim=6, noise=True, **SMALL), codes()
    assert not torch.equal(decoder.train()(given), decoder(given))
    decoder.eval()
    with_generator = [decoder(given, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(with_generator[0], with_generator[1])
    assert not torch.equal(with_generator[0], with_generator[2])


def test_the_second_stage_begins_where_the_first_ended() -> None:
    plain = CNNMagvit2Decoder(dim=6, **SMALL).eval()
    generative = CNNMagvit2Decoder(dim=6, noise=True, **SMALL).eval()
    generative.load_state_dict(generative.adapted(plain.state_dict()))
    given = codes()
    torch.testing.assert_close(generative(given), plain(given))
    assert plain.adapted(plain.state_dict())["conv_in.weight"].shape == plain.conv_in.weight.shape


def test_a_tokenizer_hands_the_generator_on(tokenizer_node) -> None:
    node = tokenizer_node | {
        "encoder": {"_target_": "imtok.tokenizers.encoders.cnn_magvit2.CNNMagvit2Encoder", "dim": 6, **SMALL},
        "decoder": {"_target_": "imtok.decoders.cnn_magvit2.CNNMagvit2Decoder", "noise": True, **SMALL},
    }
    tokenizer = build(node, key="tokenizer").eval()
    indices = torch.randint(64, (2, 64, 1))
    drawn = [tokenizer.detokenize(indices, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert not torch.equal(*drawn)
    assert torch.equal(tokenizer.detokenize(indices), tokenizer.detokenize(indices))
    plain = build(tokenizer_node, key="tokenizer").eval()
    with pytest.raises(UserError, match="draws no noise"):
        plain.detokenize(indices, generator=torch.Generator())
