"""Reader of Instella-T2I's binary tokenizer, against its reference implementation's outputs."""

import torch

from imtok.tokenizers import released

from .compared import check_fixture, imported, read


def test_every_output_of_the_reference(parity_folder) -> None:
    check_fixture(parity_folder / "instella_bae", "instella_bae", inputs=())


def test_rotary_positions_take_another_size(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "instella_bae")
    tokenizer, _ = released.find("instella_bae").import_state(state, image_size=(32, 96), constructor=constructor)
    images = torch.rand(1, 3, 32, 96) * 2 - 1
    assert tokenizer.reconstruct(images).shape == images.shape


def test_the_imported_tokenizer_goes_through_indices(parity_folder) -> None:
    tokenizer = imported(parity_folder / "instella_bae", "instella_bae")
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(tokenizer.detokenize(tokenizer.tokenize(images)), tokenizer.reconstruct(images))
