"""Sub-codebooks behind a semantic index, against a loop over tokens."""

import pytest
import torch

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers import hierarchical_vq
from imtok.tokenizers.quantizers.hierarchical_vq import HierarchicalVQ


def test_nearest_sub_code_of_the_semantic_code(monkeypatch) -> None:
    monkeypatch.setattr(hierarchical_vq, "GATHERED_FLOATS", 1)  # 16 tokens a chunk
    vq, z = HierarchicalVQ(dim=6, semantic_size=5, sub_size=4).eval(), torch.randn(2, 20, 6)
    out = vq({"main": Stream(z)})
    books = vq.sub_codebooks.view(5, 4, 3)
    for vector, index, code in zip(
        z.flatten(0, 1), out.indices["main"].flatten(), out.codes["main"].x_BND.flatten(0, 1), strict=True
    ):
        semantic = int((vq.semantic.codebook - vector[:3]).norm(dim=1).argmin())
        sub = int((books[semantic] - vector[3:]).norm(dim=1).argmin())
        assert int(index) == semantic * 4 + sub
        torch.testing.assert_close(code, torch.cat([vq.semantic.codebook[semantic], books[semantic, sub]]))


def test_two_streams_become_one() -> None:
    vq = HierarchicalVQ(dim={"semantic": 5, "pixel": 3}, semantic_size=8, sub_size=4).eval()
    given = {"semantic": Stream(torch.randn(2, 4, 5), (2, 2)), "pixel": Stream(torch.randn(2, 4, 3), (2, 2))}
    shapes = {name: StreamShape(4, (2, 2)) for name in given}
    out = vq(given)
    assert out.codes["main"].x_BND.shape == (2, 4, 8) == (2, 4, vq.out_dim)
    assert vq.bits(shapes) == 4 * 5
    again = vq.indices_to_codes(out.indices, shapes)["main"].x_BND
    torch.testing.assert_close(again, out.codes["main"].x_BND)
    given["semantic"].grid = (1, 4)
    with pytest.raises(ValueError, match="must be one"):
        vq(given)


def test_dead_sub_codes_go_to_vectors_of_their_own_semantic_code() -> None:
    vq = HierarchicalVQ(dim=4, semantic_size=4, sub_size=8, revive_below=0.3, usage_decay=0.5)
    with torch.no_grad():
        vq.sub_codebooks.copy_(100 + torch.randn(32, 2))
        vq.sub_codebooks[::8] = 0.0
    used = [vq({"main": Stream(torch.randn(1, 512, 4))}).indices["main"].unique().numel() for _ in range(60)]
    assert used[0] <= 4
    assert used[-1] > 20


def test_backward_after_a_revival() -> None:
    vq = HierarchicalVQ(dim=4, semantic_size=4, sub_size=8, revive_below=0.9, usage_decay=0.0, unit_length=True)
    z = torch.randn(1, 20, 4, requires_grad=True)
    before = vq.sub_codebooks.detach().clone()
    out = vq({"main": Stream(z)})
    (sum(out.losses.values()) + out.codes["main"].x_BND.sum()).backward()
    assert not torch.equal(before, vq.sub_codebooks)
    assert bool(torch.isfinite(z.grad).all())


@pytest.mark.parametrize("settings", [{"sub_size": 1}, {"code_dim": 1}, {"sub_size": 2**40}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        HierarchicalVQ(dim=4, **settings)
    with pytest.raises(ValueError, match="semantic and pixel"):
        HierarchicalVQ(dim={"main": 4, "pixel": 4})
