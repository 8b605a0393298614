"""Soft tokens: certain distributions are hard tokens, mixtures are means."""

import pytest
import torch
import torch.nn.functional as F

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.soft_vq import SoftVQ

SHAPES = {"main": StreamShape(6, (2, 3))}


def test_decode_soft() -> None:
    vq = SoftVQ(dim=6, codebook_size=16, code_dim=4).eval()
    out = vq({"main": Stream(torch.randn(2, 6, 6), (2, 3))})
    certain = F.one_hot(out.indices["main"][..., 0], 16).float()
    soft = vq.decode_soft(certain, SHAPES)["main"]
    torch.testing.assert_close(soft.x_BND, out.codes["main"].x_BND)
    assert soft.grid == (2, 3)
    p = torch.randn(2, 6, 16).softmax(-1)
    expected = vq.project_out((p[..., None] * vq.codebook).sum(-2))
    torch.testing.assert_close(vq.decode_soft(p, SHAPES)["main"].x_BND, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert vq.decode_soft(p.bfloat16(), SHAPES)["main"].x_BND.dtype == torch.float32
    with pytest.raises(ValueError, match="7 entries"):
        vq.decode_soft(p[..., :7], SHAPES)
