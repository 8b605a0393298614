"""Decoders and heads of two-stream tokenizers: what they read, and what training does to it."""

import pytest
import timm
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Stream
from imtok.decoders.cnn_movq import CNNMoVQDecoder
from imtok.decoders.heads.feature_vit import FeatureViTHead
from imtok.decoders.heads.pooled import PooledHead
from imtok.decoders.heads.tower_tail import TowerTailHead, from_timm
from imtok.decoders.one_stream import OneStreamDecoder
from imtok.decoders.vitamin import ViTaminDecoder
from imtok.layers.attention_projection import AttentionProjection
from imtok.layers.movq import ShuffleUp, UnshuffleDown

DIMS = {"semantic": 4, "pixel": 8}
MOVQ = {"channels": 36, "channel_multipliers": [1, 1], "blocks_per_level": 1}
CNN = {"channels": 32, "channel_multipliers": [1, 1], "blocks_per_level": 1, "z_channels": 8}


def codes(batch: int = 3) -> dict[str, Stream]:
    return {
        "semantic": Stream(torch.randn(batch, 4, 4), (2, 2)),
        "pixel": Stream(torch.randn(batch, 25, 8), (5, 5)),
    }


def test_movq_reads_both_streams_on_the_pixel_grid() -> None:
    decoder, given = CNNMoVQDecoder(dim=DIMS, **MOVQ).eval(), codes()
    picture = decoder(given)
    assert picture.shape == (3, 3, 10, 10)
    for name in DIMS:
        other = codes() | {name: given[name]}
        assert not torch.allclose(decoder(other), picture)


def test_some_pixel_codes_of_the_sample_before_stand_in_while_training() -> None:
    decoder, given = CNNMoVQDecoder(dim=DIMS, **MOVQ, swapped=0.5, swapped_samples=1.0).train(), codes()
    plain, mixed = decoder.eval().joined(given), decoder.train().joined(given)
    assert torch.equal(mixed[:, :4], plain[:, :4]), "meaning stays"
    pixels, before = plain[:, 4:], plain[:, 4:].roll(1, dims=0)
    own, swapped = (mixed[:, 4:] == pixels).all(dim=1), (mixed[:, 4:] == before).all(dim=1)
    assert bool((own | swapped).all()) and 0.2 < float(swapped.float().mean()) < 0.8
    never = CNNMoVQDecoder(dim=DIMS, **MOVQ, swapped=0.5, swapped_samples=0.0).train()
    assert torch.equal(never.joined(given), plain)


def test_resampling_shortcuts_alone_keep_a_flat_picture() -> None:
    flat = torch.full((1, 8, 4, 4), 3.0)
    for module, side in ((UnshuffleDown(channels=8), 2), (ShuffleUp(channels=8), 8)):
        torch.nn.init.zeros_(module.conv.weight)
        torch.nn.init.zeros_(module.conv.bias)
        assert torch.equal(module(flat), torch.full((1, 8, side, side), 3.0))


def test_one_stream_hides_the_other_and_sizes_the_picture() -> None:
    node = {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN}
    decoder, given = OneStreamDecoder(dim=DIMS, decoder=node, image_size=12).eval(), codes()
    picture = decoder(given)
    assert picture.shape == (3, 3, 12, 12)
    assert torch.equal(decoder(given | {"semantic": codes()["semantic"]}), picture)
    assert decoder.last_layer is decoder.decoder.conv_out.weight
    with pytest.raises(ValueError, match="stream=sound"):
        OneStreamDecoder(dim=DIMS, decoder=node, stream="sound")


def test_vitamin_mirror_grows_sixteenfold() -> None:
    decoder = ViTaminDecoder(dim=16, depth=1, num_heads=2, conv_widths=[8, 12], conv_depths=[1, 2])
    assert decoder({"main": Stream(torch.randn(2, 6, 16), (2, 3))}).shape == (2, 3, 32, 48)


@pytest.mark.parametrize("changed", range(6))
def test_causal_projection_looks_back_only(changed: int) -> None:
    """Bit by bit: a token moves itself and later ones, and no earlier one."""
    x = torch.randn(2, 6, 8)
    other = x.clone()
    other[:, changed] += 1.0
    causal, full = AttentionProjection(dim_in=8, dim_out=32, causal=True), AttentionProjection(dim_in=8, dim_out=32)
    assert (causal(x) != causal(other)).any(dim=2).tolist() == [[place >= changed for place in range(6)]] * 2
    assert bool((full(x) != full(other)).any(dim=2).all())


def test_what_a_pooled_head_is_not_shown_changes_no_bit() -> None:
    head, x = PooledHead(dim=8, out_dim=5), torch.randn(3, 25, 8)
    mask = torch.arange(25) < torch.tensor([[7], [25], [1]])
    other = torch.where(mask[..., None], x, torch.randn_like(x))
    shown = head({"main": Stream(x, mask_BN=mask)})
    assert torch.equal(head({"main": Stream(other, mask_BN=mask)}), shown)
    other[:, 0] = torch.randn(3, 8)
    assert bool((head({"main": Stream(other, mask_BN=mask)}) != shown).any(dim=1).all())


def test_heads_read_their_stream() -> None:
    given = codes()
    feature = FeatureViTHead(dim=DIMS, out_dim=6, grid=2, width=16, depth=1, num_heads=2)
    tail = TowerTailHead(dim=DIMS, width=16, depth=1, num_heads=2, mlp_width=32)
    pooled = PooledHead(dim=DIMS, stream="pixel", out_dim=5)
    assert feature(given).shape == (3, 4, 6) and tail(given).shape == (3, 16) and pooled(given).shape == (3, 5)
    larger = {"semantic": Stream(torch.randn(1, 9, 4), (3, 3))}
    assert feature(larger).shape == (1, 9, 6)
    masked = given | {"pixel": Stream(given["pixel"].x_BND, (5, 5), torch.arange(25).expand(3, -1) < 7)}
    first = {"pixel": Stream(given["pixel"].x_BND[:, :7])}
    torch.testing.assert_close(pooled(masked), pooled(first))


def test_tail_of_a_tower_is_timms() -> None:
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 32, "patch_size": 8, "mlp_ratio": 2}
    theirs = timm.create_model("vit_base_patch16_siglip_224", num_classes=0, **sizes).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tail = TowerTailHead(dim=8, stream="main", width=32, depth=1, num_heads=4, mlp_width=64, activation="gelu").eval()
    given = {k: v for k, v in from_timm(theirs.state_dict(), first_block=2).items() if not k.startswith("blocks.-")}
    missing, left_over = tail.load_state_dict(given, strict=False)
    assert not left_over and all(name.startswith("expand.") for name in missing)
    x = torch.randn(2, 16, 32)
    expected = theirs.forward_head(theirs.norm(theirs.blocks[2](x)))
    torch.testing.assert_close(tail.pool(tail.norm(tail.last_hidden(x))), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["one_stream.OneStreamDecoder", "merged.MergedDecoder"])
def test_a_mistake_in_the_decoder_inside_names_its_place_wherever_it_is(kind: str) -> None:
    inner = {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN}
    for wrong, said in (
        ({"channels": 30}, "channels=30 times"),
        ({"chanels": 32}, "chanels=32: CNNDecoder has no such"),
    ):
        node = {"_target_": f"imtok.decoders.{kind}", "decoder": inner | wrong}
        with pytest.raises(UserError, match=f"^somewhere.else.decoder.{said}"):
            build(node, key="somewhere.else", dim=DIMS)
