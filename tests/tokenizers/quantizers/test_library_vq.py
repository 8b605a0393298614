"""vector-quantize-pytorch behind our interface: equal to our own EmaVQ, and its dead codes come back."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.ema_vq import EmaVQ
from imtok.tokenizers.quantizers.library_vq import LibraryVQ


@pytest.mark.parametrize("rotation_trick", [False, True])
@pytest.mark.parametrize("unit_length", [False, True])
def test_ten_updates_equal_our_own(unit_length: bool, rotation_trick: bool) -> None:
    how = {"dim": 4, "codebook_size": 32, "unit_length": unit_length, "decay": 0.9, "rotation_trick": rotation_trick}
    ours, theirs = EmaVQ(**how), LibraryVQ(**how)
    book = theirs.vq._codebook
    book.embed.data.copy_(ours.codebook[None])
    book.embed_avg.data.copy_(ours.sums[None])
    book.cluster_size.data.fill_(1.0)
    for _ in range(10):
        z = torch.randn(2, 100, 4)
        gradients, outs = [], []
        for quantizer in (ours, theirs):
            given = z.clone().requires_grad_()
            out = quantizer({"main": Stream(given)})
            (out.losses["commit"] + out.codes["main"].x_BND.square().sum()).backward()
            gradients.append(given.grad)
            outs.append(out)
        assert torch.equal(outs[0].indices["main"], outs[1].indices["main"])
        for mine, other in (
            (outs[0].losses["commit"], outs[1].losses["commit"]),
            (outs[0].codes["main"].x_BND, outs[1].codes["main"].x_BND),
            (gradients[0], gradients[1]),
            (ours.codebook, theirs.codebook),
        ):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_dead_codes_come_back_and_the_codebook_rests_outside_of_training() -> None:
    quantizer = LibraryVQ(dim=4, codebook_size=16, revive_below_tokens=1.0, decay=0.5)
    quantizer.vq._codebook.embed.data[:, 8:] = 1e3  # nothing is near these
    z = torch.randn(4, 50, 4)
    for _ in range(12):
        used = quantizer({"main": Stream(z)}).indices["main"].unique()
    assert len(used) == 16
    before = quantizer.codebook.clone()
    with torch.no_grad():
        quantizer({"main": Stream(z)})  # still in training mode
    quantizer({"main": Stream(z * float("nan"))})
    quantizer.eval()({"main": Stream(z)})
    assert torch.equal(quantizer.codebook, before)
