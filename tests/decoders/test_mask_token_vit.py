"""The mask-token decoder: dropped tokens are not there, text is, and pixels lie where their patch is."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.configs.compose import compose_config
from imtok.decoders.mask_token_vit import MaskTokenViTDecoder
from imtok.decoders.proxy_codes import ProxyCodeDecoder

SIZES = {"dim": 6, "num_tokens": 8, "image_size": 32, "width": 32, "depth": 2, "num_heads": 4}
PROXY = {
    "codebook_size": 16,
    "code_dim": 8,
    "channels": 32,
    "channel_multipliers": [1, 1, 1, 1, 1],
    "blocks_per_level": 1,
}


def make(kind: str, **settings):
    torch.manual_seed(0)
    if kind == "pixels":
        return MaskTokenViTDecoder(**(SIZES | {"patch_size": 8} | settings)).eval()
    return ProxyCodeDecoder(**(SIZES | {"patch_size": 16, "trains": "pixels"} | PROXY | settings)).eval()


def codes(length: int = 8) -> torch.Tensor:
    return torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(5))[:, :length]


@pytest.mark.parametrize("kind", ["pixels", "proxy"])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_a_dropped_token_changes_no_bit(kind, needs_grad) -> None:
    decoder, x = make(kind), codes()
    mask = torch.tensor([[True] * 8, [True] * 3 + [False] * 5, [True] * 6 + [False] * 2])
    other = torch.where(mask[..., None], x, torch.full_like(x, 7.0))
    pictures = [
        decoder({"main": Stream(y.clone().requires_grad_(needs_grad), mask_BN=mask)}).detach() for y in (x, other)
    ]
    assert torch.equal(*pictures)
    shown = other.clone()
    shown[1, 2] += 1
    changed = decoder({"main": Stream(shown, mask_BN=mask)}).detach()
    assert not torch.equal(changed[1], pictures[0][1]), "a token that is there counts"
    if not needs_grad:
        assert torch.equal(changed[[0, 2]], pictures[0][[0, 2]])


@pytest.mark.parametrize("kind", ["pixels", "proxy"])
def test_masked_and_cut_off_are_the_same_picture(kind) -> None:
    decoder = make(kind)
    cut = decoder({"main": Stream(codes(3))})
    everywhere = decoder({"main": Stream(codes(), mask_BN=torch.arange(8).expand(3, 8) < 3)})
    assert torch.equal(cut, everywhere), "places that nobody uses cost nothing"
    one_long = (torch.arange(8).expand(3, 8) < 3) | (torch.arange(3) == 0)[:, None]
    masked = decoder({"main": Stream(codes(), mask_BN=one_long)})
    torch.testing.assert_close(masked[1:], cut[1:], atol=1e-3, rtol=0)


def test_a_patch_is_painted_at_its_place() -> None:
    decoder = make("pixels")
    torch.nn.init.dirac_(decoder.conv_out.weight)
    features = decoder.vit({"main": Stream(codes())}["main"])
    picture = decoder({"main": Stream(codes())})
    row, column = 2, 3
    patch = decoder.to_patches(features[:, row * 4 + column]).view(3, 8, 8, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(picture[:, :, 16:24, 24:32], patch)


def test_text_changes_the_picture_and_is_needed() -> None:
    decoder = make("pixels", condition_dim=10, condition_tokens=5)
    stream, text = {"main": Stream(codes())}, torch.randn(3, 5, 10)
    assert not torch.allclose(decoder(stream, conditions=text), decoder(stream, conditions=text.flip(0)))
    mask = torch.arange(8).expand(3, 8) < torch.tensor([[2], [8], [5]])
    masked = {"main": Stream(codes(), mask_BN=mask)}
    assert not torch.allclose(decoder(masked, conditions=text), decoder(masked, conditions=text.flip(0)))
    with pytest.raises(ValueError, match=r"conditions have shape \[2, 5, 10\]; expected \[3, up to 5, 10\]"):
        decoder(stream, conditions=text[:2])


def test_mistakes_are_one_line() -> None:
    with pytest.raises(ValueError, match="num_tokens=4 in the decoder, but 8 tokens"):
        make("pixels", num_tokens=4)({"main": Stream(codes())})
    with pytest.raises(ValueError, match="patch_size=8: the proxy has a code every 16 pixels"):
        make("proxy", patch_size=8)


def starts(decoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    linear = {n: m for n, m in decoder.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    return {n: m.weight.detach() for n, m in linear.items()} | {f"{n}.bias": m.bias.detach() for n, m in linear.items()}


def test_ta_titok_starts_its_decoder_as_pytorch_does() -> None:
    config = compose_config("train", ["experiment=ta_titok_bl32_vq", "debug=tiny"])
    assert config["tokenizer"]["decoder"]["init_std"] is None and "init_std" not in config["tokenizer"]["encoder"]
    found = starts(make("pixels", init_std=None, condition_dim=10, width=128))
    for name, x in found.items():
        if name.endswith(".bias"):  # PyTorch's attention alone begins with zero biases
            assert bool(x.any()) != (".attn." in name), name
        elif name.endswith(".qkv"):
            assert float(x.abs().max()) == pytest.approx((6 / (x.shape[0] + x.shape[1])) ** 0.5, rel=0.02), name
        else:  # uniform within 1 / sqrt(inputs)
            bound = x[0].numel() ** -0.5
            assert bound * 0.8 < float(x.abs().max()) <= bound, name
    published = starts(make("pixels", width=128))
    assert not any(x.any() for name, x in published.items() if name.endswith(".bias"))
    assert float(published["vit.transformer.blocks.0.mlp.fc1"].std()) == pytest.approx(0.02, rel=0.02)
