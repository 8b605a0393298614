"""The joined tokenizer: shapes, round trips, and errors that name the YAML key."""

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(tokenizer_node) -> Tokenizer:
    return build(tokenizer_node, key="tokenizer").eval()


def test_tokenize_and_detokenize_equal_reconstruct(tokenizer: Tokenizer) -> None:
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    indices = tokenizer.tokenize(images)
    assert indices.shape == (3, 64, 1)
    assert indices.dtype == torch.int64
    assert 0 <= int(indices.min()) <= int(indices.max()) < 64
    assert torch.equal(tokenizer.detokenize(indices), tokenizer.reconstruct(images))
    assert float(tokenizer.reconstruct(images).abs().max()) <= 1


def test_facts(tokenizer: Tokenizer) -> None:
    assert tokenizer.codebook_size == 64
    assert tokenizer.num_tokens == 64
    assert tokenizer.bits_per_image == 64 * 6


def test_other_image_sizes_work_when_said(tokenizer: Tokenizer) -> None:
    images = torch.rand(1, 3, 48, 32) * 2 - 1
    indices = tokenizer.tokenize(images)
    assert indices.shape == (1, 96, 1)
    assert tokenizer.detokenize(indices, image_size=(48, 32)).shape == images.shape
    with pytest.raises(UserError, match="image_size="):
        tokenizer.detokenize(indices)


def test_a_decoder_of_grids_refuses_codes_without_one(tokenizer_node) -> None:
    encoder = {"_target_": "imtok.tokenizers.encoders.latent_vit.LatentViTEncoder", "image_size": 32, "dim": 8}
    node = tokenizer_node | {"encoder": encoder | {"num_tokens": 16, "width": 32, "depth": 1, "num_heads": 2}}
    with pytest.raises(UserError, match=r"tokenizer\.decoder: CNNDecoder decodes a grid of codes"):
        build(node, key="tokenizer")


def test_training_forward_reaches_encoder_and_codebook(tokenizer: Tokenizer) -> None:
    output = tokenizer.train()(torch.rand(2, 3, 32, 32))
    (output.reconstruction.square().mean() + sum(output.quantized.losses.values())).backward()
    assert float(tokenizer.encoder.conv_in.weight.grad.abs().sum()) > 0
    assert float(tokenizer.quantizer.codebook.grad.abs().sum()) > 0
    assert tokenizer.last_layer is tokenizer.decoder.conv_out.weight


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "x / 127.5 - 1"),
        (torch.zeros(3, 32, 32), r"\[batch, 3, height, width\]"),
        (torch.zeros(1, 3, 30, 32), "multiples of 4"),
    ],
)
def test_wrong_images_are_refused_with_the_remedy(tokenizer: Tokenizer, images: torch.Tensor, said: str) -> None:
    with pytest.raises(UserError, match=said):
        tokenizer.tokenize(images)


def test_indices_beyond_the_codebook_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="64 entries"):
        tokenizer.detokenize(torch.full((1, 64, 1), 64))


def test_sizes_that_cannot_work_fail_at_build_with_their_key(tokenizer_node) -> None:
    with pytest.raises(UserError, match=r"data.image_size=\[30, 30\].*multiples of 4"):
        build(tokenizer_node | {"image_size": 30}, key="tokenizer")
    quantizer = tokenizer_node["quantizer"] | {"dim": 16}
    with pytest.raises(UserError, match=r"tokenizer.quantizer.dim=16.*8"):
        build(tokenizer_node | {"quantizer": quantizer}, key="tokenizer")
    encoder = tokenizer_node["encoder"] | {"channels": 18}
    with pytest.raises(UserError, match=r"tokenizer.encoder.*multiples of 4"):
        build(tokenizer_node | {"encoder": encoder}, key="tokenizer")
