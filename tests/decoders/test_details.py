"""Noise, first weights and limits of settings that the contract's sizes do not reach."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.cnn_magvit2 import CNNMagvit2Decoder
from imtok.decoders.cnn_movq import CNNMoVQDecoder
from imtok.decoders.cnn_qformer import CNNQFormerDecoder
from imtok.decoders.mask_token_vit import MaskTokenViTDecoder
from imtok.decoders.merged import MergedDecoder
from imtok.decoders.noise import noise_of_codes, picture_noise
from imtok.decoders.proxy_codes import ProxyCodeDecoder
from imtok.decoders.rotary_latents import RotaryLatentDecoder
from imtok.decoders.vit_queries import QueryViTDecoder

CNN = {"channels": 32, "channel_multipliers": [1, 1], "blocks_per_level": 1}
MOVQ = {"channels": 36, "channel_multipliers": [1, 1], "blocks_per_level": 1}


def test_noise_follows_from_the_signs_of_the_codes_alone() -> None:
    codes = torch.randn(3, 400, 30, generator=torch.Generator().manual_seed(0))
    noise = noise_of_codes(codes, seed=1)
    assert noise.shape == codes.shape and torch.equal(noise_of_codes(codes * 3, seed=1), noise)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02) and float(noise.detach().std()) == pytest.approx(
        1, rel=0.02
    )
    other = codes.clone()
    other[1, 7, 3] *= -1
    assert (noise_of_codes(other, seed=1) != noise).flatten(1).any(1).tolist() == [False, True, False]
    assert not torch.equal(noise_of_codes(codes, seed=2), noise)
    assert torch.equal(noise_of_codes(torch.zeros(1, 2, 3), seed=1), noise_of_codes(-torch.ones(1, 2, 3), seed=1))


def test_noise_of_a_picture_follows_from_coarse_steps_of_its_first_token() -> None:
    codes = torch.linspace(-1, 1, 9)[None, None].repeat(2, 4, 1)  # as FSQ has them: eighths and quarters
    noise = picture_noise(codes, (3, 40, 40), seed=0)
    assert noise.shape == (2, 3, 40, 40) and torch.equal(noise[0], noise[1])
    assert float(noise.detach().std()) == pytest.approx(1, rel=0.03)
    for shift, same in ((0.03, True), (-0.03, True), (0.125, False), (-0.125, False)):  # a step is an eighth
        shifted = codes.clone()
        shifted[0, 0] += shift
        found = picture_noise(shifted, (3, 40, 40), seed=0)
        assert torch.equal(found[0], noise[0]) is same and torch.equal(found[1], noise[1])
    later = codes.clone()
    later[:, 1:] += 1
    assert torch.equal(picture_noise(later, (3, 40, 40), seed=0), noise)
    assert not torch.equal(picture_noise(codes, (3, 40, 40), seed=1), noise)


def test_generative_decoding_draws_anew_in_training_and_the_same_in_use() -> None:
    decoder = CNNMagvit2Decoder(dim=4, noise=True, **CNN)
    codes = {"main": Stream(torch.randn(2, 4, 4), (2, 2))}
    with torch.no_grad():
        assert not torch.equal(decoder.train()(codes), decoder(codes))
        picture = decoder.eval()(codes)
        assert torch.equal(decoder(codes), picture)
        decoder.noise_seed = 1
        assert not torch.equal(decoder(codes), picture)


def test_a_decoder_without_noise_grows_into_one_with_it() -> None:
    """At first the noise has no effect (WeTok's second stage)."""
    before, after = (CNNMagvit2Decoder(dim=4, noise=noise, **CNN).eval() for noise in (False, True))
    after.load_state_dict(after.adapted(before.state_dict()))
    codes = {"main": Stream(torch.randn(2, 4, 4), (2, 2))}
    with torch.no_grad():
        torch.testing.assert_close(after(codes), before(codes))
    state = after.state_dict()
    assert after.adapted(state).keys() == state.keys()
    assert torch.equal(after.adapted(state)["conv_in.weight"], state["conv_in.weight"])


def test_swapped_codes_are_those_of_a_share_of_the_samples_and_give_no_gradient() -> None:
    decoder = CNNMoVQDecoder(dim={"a": 4, "b": 8}, **MOVQ, swapped=1.0, swapped_samples=0.25).train()
    torch.manual_seed(0)
    x = torch.randn(400, 1, 8, requires_grad=True)
    joined = decoder.joined({"a": Stream(torch.randn(400, 1, 4), (1, 1)), "b": Stream(x, (1, 1))})[:, 4:, 0, 0]
    own = (joined == x[:, 0]).all(dim=1)
    assert 0.17 < float((~own).float().mean()) < 0.33
    joined.sum().backward()
    assert torch.equal(x.grad[:, 0, 0], own.float())


@pytest.mark.parametrize("name", ["swapped", "swapped_samples"])
def test_shares_of_movq_lie_between_zero_and_one(name: str) -> None:
    for share in (0, 1):
        CNNMoVQDecoder(dim=4, **MOVQ, **{name: share})
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"{name}={share}: a share"):
            CNNMoVQDecoder(dim=4, **MOVQ, **{name: share})
    with pytest.raises(ValueError, match="z_channels=5: the last level's 36 channels"):
        CNNMoVQDecoder(dim=4, **MOVQ, z_channels=5)
    wider = MOVQ | {"channel_multipliers": [1, 2]}
    assert CNNMoVQDecoder(dim=4, **wider, z_channels=8).conv_in.out_channels == 72, "its width counts, not another's"


def test_alignment_taps_one_of_the_blocks() -> None:
    sizes = {"dim": 4, "num_tokens": 4, "input_size": (8, 16), "width": 16, "num_heads": 2, "z_channels": 32, **CNN}
    decoder = CNNQFormerDecoder(**sizes, depth=2, align_after=1, align_dim=5)
    assert decoder.grid == (4, 8) and [m.out_features for m in decoder.align[::2]] == [64, 64, 5]
    CNNQFormerDecoder(**sizes, depth=2, align_after=2)
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"align_after={number}: there are 2 blocks"):
            CNNQFormerDecoder(**sizes, depth=2, align_after=number)


def test_streams_are_merged_on_the_grid_of_one() -> None:
    node = {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN, "z_channels": 8}
    a, b = torch.randn(2, 4, 3), torch.randn(2, 16, 5)
    codes = {"a": Stream(a, (2, 2)), "b": Stream(b, (4, 4))}
    for name, side in (("a", 2), ("b", 4), (None, 4)):
        decoder = MergedDecoder(dim={"a": 3, "b": 5}, decoder=node, grid_of=name)
        merged = decoder.merged(codes)
        assert merged.grid == (side, side) and merged.x_BND.shape == (2, side * side, 8)
        kept, given = (merged.x_BND[..., :3], a) if name == "a" else (merged.x_BND[..., 3:], b)
        assert torch.equal(kept, given)
        assert decoder.last_layer is decoder.decoder.conv_out.weight and decoder.cheap_sample
    assert MergedDecoder(dim=3, decoder=node, out_channels=4)({"main": codes["a"]}).shape == (2, 4, 4, 4)
    with pytest.raises(ValueError, match="grid_of=c: the codes have a, b"):
        MergedDecoder(dim={"a": 3, "b": 5}, decoder=node, grid_of="c")


def test_a_located_start_paints_faint_patches_as_they_are() -> None:
    sizes = {"dim": 6, "num_tokens": 8, "image_size": 32, "patch_size": 8, "width": 256, "depth": 1, "num_heads": 4}
    decoder = MaskTokenViTDecoder(**sizes, located_start=True)
    assert float(decoder.to_patches.weight.detach().std()) == pytest.approx(0.1 / 16, rel=0.03)
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(decoder.conv_out(x), x)
    other = MaskTokenViTDecoder(**sizes)
    assert float(other.to_patches.weight.detach().std()) == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize("trains", ["codes", "pixels"])
def test_a_proxys_half_trains_in_the_second_stage_only(trains: str) -> None:
    sizes = {"dim": 6, "num_tokens": 8, "image_size": 8, "patch_size": 2, "width": 32, "depth": 1, "num_heads": 4}
    decoder = ProxyCodeDecoder(**sizes, trains=trains, codebook_size=16, code_dim=8, **CNN)
    free = {name.partition(".")[0] for name, p in decoder.named_parameters() if p.requires_grad}
    assert free == {"vit", "to_logits"} | ({"codebook", "pixels"} if trains == "pixels" else set())
    assert decoder.cheap_sample is (trains == "pixels") and decoder.to_logits[0].out_features == 64


def test_mask_vectors_of_a_rotary_decoder_start_small() -> None:
    decoder = RotaryLatentDecoder(dim=4, input_size=(32, 32), width=1536, depth=1, double_after=[], axes=[32, 32, 32])
    assert float(decoder.mask_vector.detach().std()) == pytest.approx(0.02, rel=0.08)


def test_query_decoder_starts_its_tokens_as_published() -> None:
    decoder = QueryViTDecoder(dim=4, image_size=16, width=768, depth=1, num_heads=4)
    assert float(decoder.sets.detach().std()) == pytest.approx((1 / 768 / 3) ** 0.5, rel=0.1)
    assert float(decoder.mask_token.detach().std()) == pytest.approx(1e-6, rel=0.15)
