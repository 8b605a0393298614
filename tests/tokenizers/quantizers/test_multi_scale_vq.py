"""Multi-scale residual quantization against ImageFolder's published outputs, and its pyramid by hand."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.multi_scale_vq import MultiScaleVQ
from imtok.tokenizers.quantizers.product_vq import ProductQuantizer
from imtok.tokenizers.quantizers.shared.smoothing import Phi

KIND = "imtok.tokenizers.quantizers.multi_scale_{}"


def imagefolder(folder, part, prefixes):
    """(config, io, quantizer with the reference's weights)"""
    config, io = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    facts = config["constructor"]
    width = facts["codebook_embed_dim"]
    node = {"scales": facts["v_patch_nums"], "phi_convs": facts["share_quant_resi"], **part}
    quantizer = ProductQuantizer(dim=width, split="tokens", parts=facts["product_quant"], part=node)
    state = {}
    for key, value in load_file(folder / "weights.safetensors").items():
        for theirs, ours in prefixes.items():
            if key.startswith("quantizes.") and theirs in key:
                branch, rest = key.split(".")[1], key.split(theirs)[1]
                state[f"parts.{branch}.{ours}{rest}"] = value
    quantizer.load_state_dict(state)
    return io, quantizer


def check_codes(io, quantizer, parts=2):
    z = {"main": Stream(io["z"].flatten(2).transpose(1, 2))}
    out = quantizer.eval()(z)
    assert torch.equal(out.indices["main"].transpose(1, 2), io["indices"])
    grid = out.codes["main"].grid
    torch.testing.assert_close(out.codes["main"].x_BND.transpose(1, 2).unflatten(2, grid), io["quantized"])
    shape = {"main": StreamShape(io["z"].shape[2])}
    again = quantizer.indices_to_codes({"main": io["indices"].transpose(1, 2)}, shape)["main"].x_BND
    torch.testing.assert_close(again.transpose(1, 2).unflatten(2, grid), io["quantized"])
    for scale in range(io["quantized_scales0"].shape[1]):
        partial = quantizer.parts[0].partial_codes(io["indices"][:, 0], grid, scales=scale + 1)
        torch.testing.assert_close(partial.transpose(1, 2).unflatten(2, grid), io["quantized_scales0"][:, scale])
    return quantizer.train()(z)


def test_imagefolder(parity_folder) -> None:
    part = {"_target_": KIND.format("vq.MultiScaleVQ"), "codebook_size": 256, "commit_reduction": "sum"}
    prefixes = {"quant_resi.qresi_ls.": "phi.convs.", "embedding.weight": "codebook"}
    io, quantizer = imagefolder(parity_folder / "imagefolder", part, prefixes)
    out = check_codes(io, quantizer)
    torch.testing.assert_close(out.losses["codebook"].detach(), io["codebook_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(0.25 * out.losses["commit"].detach(), io["commitment_loss"], rtol=1e-4, atol=0)
    straight_through = out.codes["main"].x_BND.transpose(1, 2).unflatten(2, out.codes["main"].grid)
    torch.testing.assert_close(straight_through, io["quantized_train"], rtol=1e-4, atol=1e-5)


def test_imagefolder_binary(parity_folder) -> None:
    part = {"_target_": KIND.format("bsq.MultiScaleBSQ"), "bits": 10}
    io, quantizer = imagefolder(parity_folder / "xqgan_bsq", part, {"quant_resi.qresi_ls.": "phi.convs."})
    out = check_codes(io, quantizer)
    torch.testing.assert_close(out.losses["codebook"].detach(), io["codebook_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(0.25 * out.losses["commit"].detach(), io["commitment_loss"], rtol=1e-4, atol=0)
    # The reference's mask is an int tensor used as an index: it computes the entropy on sample 1 twice.
    second = quantizer({"main": Stream(io["z"][1:].flatten(2).transpose(1, 2))})
    torch.testing.assert_close(0.1 * second.losses["entropy"].detach(), io["entropy_loss"], rtol=1e-4, atol=0)


def make(**settings) -> MultiScaleVQ:
    vq = MultiScaleVQ(dim=4, codebook_size=32, scales=[1, 2, 4], **settings)
    with torch.no_grad():
        vq.codebook.copy_(torch.randn(32, 4))
    return vq


@pytest.mark.parametrize("unit_length", [False, True])
def test_the_pyramid_by_hand(unit_length: bool) -> None:
    vq = make(phi_convs=0, unit_length=unit_length).eval()
    z = torch.randn(2, 16, 4)
    out = vq({"main": Stream(z, (4, 4))})
    rest, total, start = z.transpose(1, 2).reshape(2, 4, 4, 4), 0, 0
    book = F.normalize(vq.codebook, dim=-1) if unit_length else vq.codebook
    for side in (1, 2, 4):
        small = F.adaptive_avg_pool2d(rest, side).flatten(2).transpose(1, 2)
        small = F.normalize(small, dim=-1) if unit_length else small
        index = torch.cdist(small, book[None].expand(2, -1, -1)).argmin(-1)
        assert torch.equal(out.indices["main"][:, start : start + side * side, 0], index)
        start += side * side
        codes = vq.codebook[index].transpose(1, 2).reshape(2, 4, side, side)
        up = codes if side == 4 else F.interpolate(codes, (4, 4), mode="bicubic", align_corners=False)
        rest, total = rest - up, total + up
    torch.testing.assert_close(out.codes["main"].x_BND, total.flatten(2).transpose(1, 2))


def test_scales_go_along_with_other_grids() -> None:
    layout = make().index_layout({"main": StreamShape(8 * 12, (8, 12))})
    assert [s.grid for s in layout] == [(2, 3), (4, 6), (8, 12)]
    assert [s.scale for s in layout] == [0, 1, 2]
    assert [s.length for s in layout] == [6, 24, 96]
    with pytest.raises(ValueError, match="have none"):
        make().index_layout({"main": StreamShape(16)})


def test_phi_is_the_identity_at_ratio_zero_and_picks_neighbours() -> None:
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(Phi(width=4, convs=4, ratio=0.0, scales=10)(x, 3), x)
    phi = Phi(width=4, convs=4, ratio=0.5, scales=10)
    places = np.linspace(1 / 12, 11 / 12, 4)  # scale 2 of 10 lies between two, and rounding decides: as numpy's does
    assert [phi.which(s) for s in range(10)] == [int(np.abs(places - s / 9).argmin()) for s in range(10)]
    torch.testing.assert_close(phi(x, 9), 0.5 * x + 0.5 * phi.convs[3](x))
    assert Phi(width=4, convs=1, ratio=0.5, scales=1).which(0) == 0


def test_dropout_leaves_scales_out_and_marks_the_samples() -> None:
    vq, z = make(quantizer_dropout=0.5), torch.randn(4, 16, 4)
    out = vq({"main": Stream(z, (4, 4))}, depths_B=torch.tensor([1, 2, 3, 3]))
    assert out.sample_mask.tolist() == [False, False, True, True]
    expected = vq.partial_codes(out.indices["main"][:1, :, 0], (4, 4), scales=1)
    torch.testing.assert_close(out.codes["main"].x_BND[:1], expected)
    whole = vq.partial_codes(out.indices["main"][2:, :, 0], (4, 4))
    torch.testing.assert_close(out.codes["main"].x_BND[2:], whole)
    assert make()({"main": Stream(z, (4, 4))}).sample_mask is None
    assert vq.eval()({"main": Stream(z, (4, 4))}).sample_mask is None


def test_one_draw_of_depths_for_all_parts() -> None:
    part = {
        "_target_": KIND.format("vq.MultiScaleVQ"),
        "codebook_size": 8,
        "scales": [1, 2, 4],
        "quantizer_dropout": 1.0,
    }
    product = ProductQuantizer(dim=8, part=part)
    seen = []
    for p in product.parts:
        p.register_forward_pre_hook(lambda _, __, given: seen.append(given["depths_B"]), with_kwargs=True)
    out = product({"main": Stream(torch.randn(16, 16, 8), (4, 4))})
    assert torch.equal(seen[0], seen[1]) and seen[0].unique().numel() > 1
    assert torch.equal(out.sample_mask, seen[0] == 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"scales": []},
        {"scales": [4, 2]},
        {"phi_convs": -1},
        {"phi_ratio": 2.0},
        {"least_stages": 4, "quantizer_dropout": 0.1},
    ],
)
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        MultiScaleVQ(dim=4, **{"scales": [1, 2, 4]} | settings)
