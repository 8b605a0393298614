"""Tokens with places: closed forms, and where the first layer looks."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.mask_token_vit import MaskTokenViTDecoder
from imtok.layers.located_start import sincos_places, token_grid
from imtok.tokenizers.encoders.latent_vit import LatentViTEncoder

SIZES = {"image_size": 64, "patch_size": 8, "width": 96, "depth": 2, "num_heads": 3, "class_token": False}


@pytest.mark.parametrize(("tokens", "grid"), [(1, (1, 1)), (7, (1, 7)), (32, (4, 8)), (64, (8, 8)), (12, (3, 4))])
def test_as_square_as_the_number_allows(tokens: int, grid: tuple[int, int]) -> None:
    assert token_grid(tokens) == grid


def test_places_are_of_equal_length_and_unlike_with_distance() -> None:
    places = sincos_places((8, 8), 96)
    torch.testing.assert_close(places.square().sum(1), torch.full((64,), 48.0))
    from_corner = (places @ places[0]).view(8, 8)
    assert bool((from_corner.flatten()[1:] < from_corner[0, 0]).all())
    assert from_corner[0, 1] > from_corner[0, 4] and from_corner[1, 0] > from_corner[4, 0]
    with pytest.raises(ValueError, match="width=30"):
        sincos_places((2, 2), 30)


def test_every_query_looks_at_its_own_place_first() -> None:
    """Mean attention of the first block, from the queries to the patches of noise pictures."""
    torch.manual_seed(0)
    encoder = LatentViTEncoder(dim=8, num_tokens=64, located_start=True, **SIZES)
    x_BND = encoder.patches(torch.randn(16, 3, 64, 64) * 0.5).flatten(2).transpose(1, 2) + encoder.positions
    queries = (encoder.queries + encoder.query_positions).expand(16, -1, -1)
    block = encoder.transformer.blocks[0]
    normed = block.norm1(encoder.transformer.norm_in(torch.cat([x_BND, queries], dim=1)))
    q, k, _ = block.attn.qkv(normed).unflatten(2, (3, 3, 32)).permute(2, 0, 3, 1, 4)
    attention_QP = (q @ k.transpose(2, 3) / 32**0.5).softmax(-1)[:, :, 64:, :64].mean(dim=(0, 1))
    assert (attention_QP.argmax(1) == torch.arange(64)).float().mean() > 0.9
    assert float(attention_QP.diagonal().detach().mean()) > 4 / 64


def test_a_changed_token_changes_the_picture_around_its_place() -> None:
    torch.manual_seed(0)
    decoder = MaskTokenViTDecoder(dim=8, num_tokens=64, located_start=True, **SIZES).eval()
    codes = torch.randn(1, 64, 8)
    changed = codes.clone()
    changed[0, 27] += 3  # row 3, column 3
    with torch.no_grad():
        difference = (decoder({"main": Stream(codes)}) - decoder({"main": Stream(changed)})).abs()
    by_patch = difference.mean(1)[0].unfold(0, 8, 8).unfold(1, 8, 8).mean(dim=(2, 3))
    assert int(by_patch.argmax()) == 27
