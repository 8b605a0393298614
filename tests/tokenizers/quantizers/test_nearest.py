"""The search against the full distance table, in float64."""

import pytest
import torch

from imtok.tokenizers.quantizers.shared.nearest import nearest_code


@pytest.mark.parametrize(("tokens", "codes", "dim"), [(1, 2, 1), (100, 7, 3), (333, 5000, 8), (65, 1024, 256)])
def test_equals_the_full_table(tokens: int, codes: int, dim: int) -> None:
    z, codebook = torch.randn(tokens, dim), torch.randn(codes, dim) * torch.rand(codes, 1) * 3
    table = torch.cdist(z.double(), codebook.double())
    assert torch.equal(nearest_code(z, codebook), table.argmin(dim=1))


def test_half_precision_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="half precision"):
        nearest_code(torch.randn(2, 2).bfloat16(), torch.randn(2, 2).bfloat16())


def test_no_table_of_tokens_by_codes_is_held() -> None:
    # 4096 x 65536 floats would be a GiB; the largest tensor the search makes is a chunk.
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return out

    z, codebook = torch.randn(4096, 4), torch.randn(2**16, 4)
    with Watch():
        nearest_code(z, codebook)
    assert largest <= 2**20
