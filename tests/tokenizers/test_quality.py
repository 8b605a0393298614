"""The shortest prefix that is good enough, held against decoding every length."""

import warnings

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.pixels import to_uint8
from imtok.tokenizers.quality import Quality, shortest_prefixes
from imtok.tokenizers.token_dropout.prefixes import doubling_lengths
from imtok.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(variable_node) -> Tokenizer:
    return build(variable_node, key="tokenizer").eval()


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth to rough, so that they need few to many tokens."""
    rough = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    blurred = torch.nn.functional.interpolate(rough[..., :3, :3], 32, mode="bicubic")
    return (0.4 * blurred + rough * torch.linspace(0, 0.3, 6)[:, None, None, None]).clamp(-1, 1)


def psnr_at_every_length(tokenizer: Tokenizer, images: torch.Tensor) -> list[list[float]]:
    reference = to_uint8(images).numpy()
    shown = [to_uint8(tokenizer.reconstruct(images, num_tokens=k)).numpy() for k in range(1, tokenizer.num_tokens + 1)]
    return [[peak_signal_noise_ratio(reference[i], at[i], data_range=255) for at in shown] for i in range(len(images))]


@pytest.mark.parametrize("bound", [15.5, 17, 20.5, 23])
def test_the_shortest_length_is_found_where_quality_grows(tokenizer, images, bound) -> None:
    values = psnr_at_every_length(tokenizer, images)
    expected = [next((k for k, v in enumerate(row, 1) if v >= bound), 64) for row in values]
    assert len(set(expected)) > 2, "images that all need the same length would prove little"
    missed = sum(bool(max(row) < bound) for row in values)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        indices = tokenizer.tokenize(images, quality=f"psnr>={bound}")
    assert (indices[..., 0] >= 0).sum(1).tolist() == expected
    assert indices.shape == (6, max(expected), 3)
    assert [f"{missed} of 6 images" in str(w.message) for w in said] == [True] * bool(missed)
    whole = tokenizer.tokenize(images)
    for row, length in zip(range(6), expected, strict=True):
        assert torch.equal(indices[row, :length], whole[row, :length]) and (indices[row, length:] == -1).all()


def test_ragged_tokens_decode_to_what_was_judged(tokenizer, images) -> None:
    found = shortest_prefixes(tokenizer, images, Quality.parse("psnr>=17"))
    values = psnr_at_every_length(tokenizer, images)
    indices = tokenizer.tokenize(images, quality="psnr>=17")
    shown = to_uint8(tokenizer.detokenize(indices))
    for row, length in enumerate(found.lengths):
        got = peak_signal_noise_ratio(to_uint8(images)[row].numpy(), shown[row].numpy(), data_range=255)
        assert got == pytest.approx(values[row][length - 1], abs=0.01)


def test_one_encode_and_few_decodes(tokenizer, images, monkeypatch) -> None:
    encodes = []
    monkeypatch.setattr(tokenizer.encoder, "forward", _counting(tokenizer.encoder.forward, encodes))
    shortest_prefixes(tokenizer, images, Quality.parse("psnr>=18"))
    decoded = tokenizer.decoder.decoded
    assert len(encodes) == 1 and len(decoded) <= 2 * 6 + 1, "2 log2(64) + 1 batches"
    assert sum(decoded) < 6 * 13 and decoded[0] == 6 and min(decoded) < 6, "decided pictures are not decoded again"


def _counting(forward, calls):
    def counted(*given):
        calls.append(1)
        return forward(*given)

    return counted


def test_a_picture_that_its_last_tokens_harm_is_still_found(variable_node, images) -> None:
    decoder = variable_node["decoder"] | {"harm": 1.0}
    harmed = build(variable_node | {"decoder": decoder}, key="tokenizer").eval()
    found = shortest_prefixes(harmed, images[:1], Quality.parse("psnr>=20"))
    assert found.missed == [False] and found.lengths[0] < 64


def test_errors_are_of_the_full_range(tokenizer, images) -> None:
    by_psnr = tokenizer.tokenize(images[:3], quality="psnr>=20")
    assert torch.equal(tokenizer.tokenize(images[:3], quality="mse<=0.01"), by_psnr)
    lengths = (tokenizer.tokenize(images[:3], quality="l1<=0.05")[..., 0] >= 0).sum(1).tolist()
    for image, length in zip(images[:3], lengths, strict=True):
        errors = [
            float(
                (to_uint8(tokenizer.reconstruct(image[None], num_tokens=k)) / 255 - to_uint8(image) / 255).abs().mean()
            )
            for k in (length - 1, length)
            if k
        ]
        assert errors[-1] <= 0.05 and (len(errors) == 1 or errors[0] > 0.05)


@pytest.mark.parametrize("text", ["psnr<=24", "mse>=0.1", "ssim>=0.9", "24", "psnr>=", "psnr>=24dB", ""])
def test_what_is_no_quality_is_told_in_one_line(tokenizer, images, text) -> None:
    with pytest.raises(UserError, match=r"quality=.*psnr>=24"):
        tokenizer.tokenize(images, quality=text)


def test_quality_excludes_num_tokens_and_needs_a_variable_length(tokenizer, images, tokenizer_node) -> None:
    with pytest.raises(UserError, match="give one"):
        tokenizer.tokenize(images, num_tokens=4, quality="psnr>=20")
    with pytest.raises(UserError, match="always has 64 tokens"):
        build(tokenizer_node, key="tokenizer").eval().tokenize(images, quality="psnr>=20")


def test_doubling_lengths() -> None:
    assert doubling_lengths(1) == [1] and doubling_lengths(2) == [1, 2]
    assert doubling_lengths(64) == [1, 2, 4, 8, 16, 32, 64] and doubling_lengths(100)[-3:] == [32, 64, 100]
