"""The shared index over two codebooks, against its formula written out."""

import pytest
import torch
import torch.nn.functional as F

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.joint_vq import JointVQ

DIMS, GRID = {"semantic": 6, "pixel": 4}, (4, 4)


def latents(batch: int = 2) -> dict[str, Stream]:
    return {name: Stream(torch.randn(batch, 16, width), GRID) for name, width in DIMS.items()}


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_one_index_minimises_the_weighted_sum_of_both_distances(weight: float) -> None:
    quantizer = JointVQ(dim=DIMS, codebook_size=32, pixel_weight=weight).eval()
    given = latents()
    out = quantizer(given)
    distances = {}
    for name, stream in given.items():
        codes = F.normalize(quantizer.codebooks[name], dim=-1)
        z = F.normalize(stream.x_BND, dim=-1)
        distances[name] = (z[:, :, None] - codes).square().sum(dim=-1)
        torch.testing.assert_close(out.codes[name].x_BND, codes[out.indices["main"][..., 0]])
    expected = (distances["semantic"] + weight * distances["pixel"]).argmin(dim=-1)
    assert torch.equal(out.indices["main"][..., 0], expected)
    alone = distances["semantic"].argmin(dim=-1)
    assert not torch.equal(alone, expected), "pixels have a say"


def test_pyramid_takes_off_what_coarser_scales_said() -> None:
    quantizer = JointVQ(dim=DIMS, codebook_size=32, scales=[1, 2, 4]).eval()
    given = latents()
    out = quantizer(given)
    z = torch.cat([s.x_BND for s in given.values()], dim=-1).transpose(1, 2).unflatten(2, GRID)
    codebook, residual, total, start = quantizer.effective_codebook(), z, 0, 0
    for side in (1, 2, 4):
        index = out.indices["main"][:, start : start + side**2, 0]
        start += side**2
        pooled = F.adaptive_avg_pool2d(residual, side).flatten(2).transpose(1, 2)
        unit = torch.cat([F.normalize(p, dim=-1) for p in pooled.split([6, 4], dim=-1)], dim=-1)
        assert torch.equal(index, torch.cdist(unit, codebook.expand(2, -1, -1)).argmin(dim=-1))
        small = codebook[index].transpose(1, 2).unflatten(2, (side, side))
        part = F.interpolate(small, GRID, mode="bicubic") if side < 4 else small
        residual, total = residual - part, total + part
    both = torch.cat([out.codes[s].x_BND for s in DIMS], dim=-1).transpose(1, 2).unflatten(2, GRID)
    torch.testing.assert_close(both, total)


def test_losses_count_streams_by_their_width_and_are_means_over_scales() -> None:
    quantizer = JointVQ(dim=DIMS, codebook_size=32).train()
    given = latents()
    out = quantizer(given)
    unit = torch.cat([F.normalize(s.x_BND, dim=-1) for s in given.values()], dim=-1)
    codes = torch.cat([out.codes[s].x_BND for s in DIMS], dim=-1)
    torch.testing.assert_close(out.losses["commit"], F.mse_loss(unit, codes))
    out.losses["codebook"].backward()
    assert float(quantizer.codebooks["pixel"].grad.abs().sum()) > 0


def test_left_out_scales_and_prefixes_add_nothing() -> None:
    quantizer = JointVQ(dim=DIMS, codebook_size=32, scales=[1, 2, 4], scale_dropout=1.0).train()
    shapes = {name: _shape() for name in DIMS}
    out = quantizer(latents())
    index = out.indices["main"][..., 0]
    gone = [(index[:, a:b] == -1).all() for a, b in ((0, 1), (1, 5), (5, 21))]
    assert not gone[0] and sum(map(bool, gone)) == 1
    again = quantizer.indices_to_codes(out.indices, shapes)
    torch.testing.assert_close(again["pixel"].x_BND, out.codes["pixel"].x_BND)


def test_what_cannot_be_joined_is_said() -> None:
    with pytest.raises(ValueError, match="semantic and pixel"):
        JointVQ(dim={"main": 8}, codebook_size=8)
    quantizer = JointVQ(dim=DIMS, codebook_size=8)
    given = latents()
    given["pixel"] = Stream(torch.randn(2, 36, 4), (6, 6))
    with pytest.raises(ValueError, match=r"both streams on one grid, but semantic is \(4, 4\) and pixel \(6, 6\)"):
        quantizer(given)


def _shape() -> StreamShape:
    return StreamShape(16, GRID)
