"""Reader of MaskGIT's VQGAN, against its reference implementation's outputs."""

import torch

from .compared import check_fixture, imported, read


def test_every_output_of_the_reference(parity_folder) -> None:
    check_fixture(parity_folder / "maskgit_vqgan", "maskgit_vqgan")


def test_the_imported_tokenizer_speaks_our_range(parity_folder) -> None:
    _, _, io = read(parity_folder / "maskgit_vqgan")
    tokenizer = imported(parity_folder / "maskgit_vqgan", "maskgit_vqgan")
    images = 2 * io["image"] - 1
    assert torch.equal(tokenizer.tokenize(images)[..., 0].view(io["indices"].shape), io["indices"])
    torch.testing.assert_close(
        tokenizer.detokenize(tokenizer.tokenize(images)), 2 * io["decoded_clamped"] - 1, atol=1e-3, rtol=0
    )
