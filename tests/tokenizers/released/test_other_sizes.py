"""Readers on forms that no fixture has: other levels, grids and resampling, against plain functions of torch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imtok.common.types import Stream
from imtok.tokenizers import released
from imtok.tokenizers.quantizers.parallel import ParallelQuantizer

from .by_hand import conv, decoded, encoded, group_norm, random_network
from .compared import read


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max() / expected.std()) <= 1e-4


def test_flextok_with_two_levels_in_a_channel(parity_folder) -> None:
    constructor, state, io = read(parity_folder / "flextok")
    levels = [3, 2, 6]
    to_codes, from_codes = "encoder.module_dict.enc_to_latents.proj", "decoder.module_dict.dec_from_latents.proj.weight"
    for part in ("weight", "bias"):
        state[f"{to_codes}.{part}"] = state[f"{to_codes}.{part}"][:3] * 8  # so large that all levels occur
    state[from_codes] = state[from_codes][:, :3]
    given = constructor | {"levels": levels}
    tokenizer, _ = released.find("flextok").import_state(state, image_size=(8, 8), constructor=given)
    with torch.no_grad():
        z = tokenizer.encoder(io["latents"])["main"]
        out = tokenizer.quantizer({"main": z})
    sizes = torch.tensor(levels, dtype=torch.float64)
    half, offset = (sizes - 1) * 1.001 / 2, torch.where(sizes % 2 == 0, 0.5, 0.0)
    digits = ((z.x_BND.double() + (offset / half).atanh()).tanh() * half - offset).round() + sizes // 2
    assert torch.equal(out.indices["main"][..., 0], (digits @ torch.tensor([1.0, 3.0, 6.0]).double()).long())
    assert len(out.indices["main"].unique()) > 8
    assert tokenizer.codebook_size == 36


@pytest.mark.parametrize(
    ("ch_mult", "grid", "side"),
    [
        ([1, 1], [8, 8], 16),  # the grid that is said, times two
        ([1, 2, 1], None, 16),  # no grid: the codes' own 4x4
        ([1, 1, 2, 2], [5, 5], 40),
        ([1, 1, 1, 1, 1], "left out", 64),
        ([2], "left out", 4),
    ],
)
def test_dualtokens_decoder_has_its_own_size(parity_folder, ch_mult: list[int], grid: Any, side: int) -> None:
    """Whatever the patches of the tower are: 64 pixels in 4x4 of them."""
    constructor, state, io = read(parity_folder / "dualtoken")
    constructor["ddconfig"] |= {"ch_mult": ch_mult}
    constructor.pop("decoder_latent_shape")
    if grid != "left out":
        constructor["decoder_latent_shape"] = grid
    sizes = {"ch": 32, "blocks": 1, "attn": [len(ch_mult) - 1], "z_channels": 32}
    state = {name: v for name, v in state.items() if not name.startswith("decoder.")}
    state |= random_network("decoder", ch_mult=ch_mult, **sizes)
    tokenizer, _ = released.find("dualtoken").import_state(state, image_size=64, constructor=constructor)
    with torch.no_grad():
        made = tokenizer.decode({"pixel": Stream(io["pixel_quantized"], (4, 4))})
        x = tokenizer.decoder.decoder.expand(io["pixel_quantized"]).transpose(1, 2).unflatten(2, (4, 4))
    if isinstance(grid, list):
        x = F.interpolate(x, size=grid, mode="bilinear")
    normed, skip = group_norm(state), conv(state, "post_quant_conv.nin_shortcut", x)
    h = conv(state, "post_quant_conv.conv1", F.silu(normed("post_quant_conv.norm1", x)))
    z = skip + conv(state, "post_quant_conv.conv2", F.silu(normed("post_quant_conv.norm2", h)))
    assert made.shape == (2, 3, side, side)
    close(made, decoded(state, z, levels=len(ch_mult)))


def test_dualtoken_without_its_config_decodes_images_of_their_own_size(parity_folder) -> None:
    _, state, _ = read(parity_folder / "dualtoken")
    node = released.find("dualtoken").tokenizer_node(state, image_size=(64, 64), constructor={})
    assert node["decoder"]["decoder"]["grid"] == [16, 16]  # three levels: times four


@pytest.mark.parametrize(
    ("ch_mult", "attn", "z", "z_decoder"), [([1, 1, 1, 1], [3], 12, 20), ([1, 2, 3], [1], 8, 24), ([2], [0], 20, 24)]
)
def test_dualvitok_with_plain_resampling(
    parity_folder, ch_mult: list[int], attn: list[int], z: int, z_decoder: int
) -> None:
    """use_dc_up_down_blocks: false. Its z_channels need not divide the channels of the last level."""
    constructor, state, io = read(parity_folder / "dualvitok")
    plain = {"ch_mult": ch_mult, "attn_resolutions": attn, "use_dc_up_down_blocks": False}
    constructor["pixel_encoder"] |= plain | {"z_channels": z}
    constructor["pixel_decoder"] |= plain | {"z_channels": z_decoder}
    code_dim, joined = len(state["pixel_quant_conv.weight"]), len(state["pixel_post_quant_conv.weight"])
    state = {name: v for name, v in state.items() if not name.startswith(("pixel_encoder.", "pixel_decoder."))}
    common = {"ch": 32, "ch_mult": ch_mult, "blocks": 1, "attn": attn}
    state |= random_network("pixel_encoder", z_channels=z, **common)
    state |= random_network("pixel_decoder", z_channels=z_decoder, zq=joined, **common)
    for name, shape in {"pixel_quant_conv": (code_dim, z), "pixel_post_quant_conv": (z_decoder, joined)}.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(*shape, 1, 1) * 0.3, torch.randn(shape[0])
    side = 96 if len(ch_mult) > 1 else 28  # attention over every pixel
    tokenizer, report = released.find("dualvitok").import_state(state, image_size=side, constructor=constructor)
    assert set(report.used) == set(state)
    images = io["image"][..., :side, :side]
    with torch.no_grad():
        latents = tokenizer.encoder(images)
        hidden = encoded(state, images, side="pixel_encoder", levels=len(ch_mult))
        close(latents["pixel"].as_grid(), conv(state, "pixel_quant_conv", hidden))
        assert isinstance(tokenizer.quantizer, ParallelQuantizer)
        codes = {name: q({"main": latents[name]}).codes["main"] for name, q in tokenizer.quantizer.quantizers.items()}
        parts = [codes["semantic"].as_grid(), codes["pixel"].as_grid()]
        seen = torch.cat([F.interpolate(parts[0], parts[1].shape[-2:], mode="bicubic"), parts[1]], dim=1)
        z_BDhw = conv(state, "pixel_post_quant_conv", seen)
        expected = decoded(state, z_BDhw, side="pixel_decoder", codes=seen, levels=len(ch_mult))
        close(tokenizer.decode(codes), expected)
    assert expected.shape == images.shape
