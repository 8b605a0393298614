"""IBQ's own contract; values and gradients are held against the published code in tests/eval."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.ibq import IBQ


def test_the_losses_are_the_three_published_terms() -> None:
    ibq, z = IBQ(dim=4, codebook_size=16, entropy_temperature=None), torch.randn(1, 20, 4)
    out = ibq({"main": Stream(z)})
    codes = ibq.codebook[(z @ ibq.codebook.T).argmax(-1)]
    distance = (codes - z).square().mean()
    torch.testing.assert_close(out.losses["commit"], 2 * distance)
    torch.testing.assert_close(out.losses["codebook"], distance)
    assert ibq.loss_names == ("commit", "codebook")


def test_every_code_receives_a_gradient() -> None:
    ibq = IBQ(dim=4, codebook_size=16)
    ibq({"main": Stream(torch.randn(1, 3, 4))}).codes["main"].x_BND.square().sum().backward()
    assert bool((ibq.codebook.grad.abs().sum(dim=1) > 0).all())  # three tokens, sixteen codes


def test_a_step_never_holds_tokens_by_codes() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return out

    ibq, z = IBQ(dim=8, codebook_size=2**13), torch.randn(1, 4096, 8)
    with Watch():
        out = ibq({"main": Stream(z)})
        (out.codes["main"].x_BND.sum() + sum(out.losses.values())).backward()
    assert largest <= 2**19  # the whole table would be 2**25


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"entropy_temperature": -1.0}, {"codebook_size": 1}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        IBQ(dim=4, **settings)
