"""Lengths in training and in use, without any one distribution."""

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Quantized, Stream
from imtok.tokenizers.token_dropout.base import TokenDropout
from imtok.tokenizers.token_dropout.prefixes import prefixes


class EveryOther(TokenDropout):
    def draw(self, batch: int, num_tokens: int, device: torch.device) -> torch.Tensor:
        return 1 + torch.arange(batch, device=device) % num_tokens


def quantized(batch: int = 3, tokens: int = 4) -> Quantized:
    x = torch.arange(batch * tokens * 2.0).view(batch, tokens, 2)
    return Quantized({"main": Stream(x)}, {"main": torch.arange(batch * tokens).view(batch, tokens, 1)})


def test_training_masks_what_lies_behind_the_drawn_length_and_eval_nothing():
    dropout, codes = EveryOther(), quantized().codes
    mask = dropout(codes)["main"].mask_BN
    assert mask.tolist() == [[True, False, False, False], [True, True, False, False], [True, True, True, False]]
    assert dropout.eval()(codes)["main"].mask_BN is None


def test_one_length_cuts_and_one_a_picture_masks():
    dropout = EveryOther().eval()
    cut = dropout.keep(quantized(), 2)
    assert cut.indices["main"][..., 0].tolist() == [[0, 1], [4, 5], [8, 9]]
    assert cut.codes["main"].mask_BN.sum(1).tolist() == [2, 2, 2]
    ragged = dropout.keep(quantized(), [1, 3, 2])
    assert ragged.indices["main"][..., 0].tolist() == [[0, -1, -1], [4, 5, 6], [8, 9, -1]]
    assert ragged.codes["main"].mask_BN.sum(1).tolist() == [1, 3, 2]
    assert dropout.padded(ragged.indices["main"], 4)[..., 0].tolist() == [
        [0, -1, -1, -1],
        [4, 5, 6, -1],
        [8, 9, -1, -1],
    ]


@pytest.mark.parametrize("wanted", [0, 5, [1, 2], [1, 2, 9]])
def test_lengths_that_cannot_be(wanted):
    with pytest.raises(UserError, match="num_tokens"):
        EveryOther().keep(quantized(), wanted)


def test_hidden_vectors_are_zero_and_get_no_gradient():
    x = torch.randn(3, 4, 2, requires_grad=True)
    shown = EveryOther()({"main": Stream(x)})["main"]
    assert torch.equal(shown.x_BND == 0, ~shown.mask_BN[..., None].expand(-1, -1, 2))
    shown.x_BND.sum().backward()
    assert torch.equal(x.grad != 0, shown.mask_BN[..., None].expand(-1, -1, 2))


@pytest.mark.parametrize("lengths", [5, [1, 64, 7]])
def test_a_prefix_by_its_indices_is_the_prefix_by_its_codes(variable_node, lengths):
    tokenizer = build(variable_node, key="tokenizer").eval()
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    indices = tokenizer.tokenize(images, num_tokens=lengths)
    assert torch.equal(tokenizer.detokenize(indices), tokenizer.reconstruct(images, num_tokens=lengths))


def test_lengths_at_their_limits_and_codes_without_indices():
    dropout, given = EveryOther().eval(), quantized()
    assert torch.equal(dropout.keep(given, 4).indices["main"], given.indices["main"])
    assert dropout.keep(given, 1).indices["main"].shape == (3, 1, 1)
    continuous = dropout.keep(Quantized(given.codes, {}), [1, 2, 4])
    assert continuous.indices == {} and continuous.codes["main"].mask_BN.sum(1).tolist() == [1, 2, 4]
    indices = given.indices["main"]
    assert dropout.padded(indices, 4) is indices and dropout.padded(indices, 3) is indices
    masked = Stream(given.codes["main"].x_BND, mask_BN=torch.tensor([[False, True, True, True]] * 3))
    shown = dropout.keep(Quantized({"main": masked}, given.indices), [1, 2, 4])
    assert shown.codes["main"].mask_BN.sum(1).tolist() == [0, 1, 3], "what was masked stays so"


def test_some_images_at_lengths_of_their_own():
    given = quantized()
    mask = torch.tensor([[True, True, True, False]] * 3)
    given.codes["main"] = Stream(given.codes["main"].x_BND, mask_BN=mask)
    found = prefixes(EveryOther(), given, [2, 0, 2], [1, 3, 4])
    assert found.indices["main"][..., 0].tolist() == [[8, -1, -1, -1], [0, 1, 2, -1], [8, 9, 10, -1]]
    assert found.codes["main"].x_BND[2, 1].tolist() == given.codes["main"].x_BND[2, 1].tolist()
