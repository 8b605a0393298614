"""SimVQ against vector-quantize-pytorch's."""

import pytest
import torch
from vector_quantize_pytorch import SimVQ as Library

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.sim_vq import SimVQ


@pytest.mark.parametrize("rotation_trick", [False, True])
def test_codes_indices_and_gradients_equal_the_library(rotation_trick: bool) -> None:
    ours = SimVQ(dim=6, codebook_size=40, rotation_trick=rotation_trick)
    theirs = Library(dim=6, codebook_size=40, rotation_trick=rotation_trick, input_to_quantize_commit_loss_weight=0.25)
    theirs.frozen_codebook.copy_(ours.frozen)
    theirs.code_transform.weight.data.copy_(ours.transform.weight)
    z, probe = torch.randn(2, 30, 6, requires_grad=True), torch.randn(2, 30, 6)
    out = ours({"main": Stream(z)})
    codes, indices, loss = theirs(z)
    assert torch.equal(out.indices["main"][..., 0], indices)
    torch.testing.assert_close(out.codes["main"].x_BND, codes)
    our_loss = out.losses["codebook"] + 0.25 * out.losses["commit"]
    torch.testing.assert_close(our_loss, loss)
    mine = torch.autograd.grad(our_loss + (out.codes["main"].x_BND * probe).sum(), (z, ours.transform.weight))
    other = torch.autograd.grad(loss + (codes * probe).sum(), (z, theirs.code_transform.weight))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_codebook_itself_is_frozen_and_the_entropy_reaches_the_map() -> None:
    vq = SimVQ(dim=6, codebook_size=40, entropy_temperature=0.5, bias=True, unit_length=True)
    assert "frozen" not in dict(vq.named_parameters())
    vq({"main": Stream(torch.randn(1, 9, 6))}).losses["entropy"].backward()
    assert float(vq.transform.weight.grad.abs().sum()) > 0
