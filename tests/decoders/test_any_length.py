"""Q-Former and rotary decoders: tokens that are hidden count for nothing, in training as in use."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.base import Decoder
from imtok.decoders.cnn_qformer import CNNQFormerDecoder
from imtok.decoders.rotary_latents import RotaryLatentDecoder

CNN = {"channels": 32, "channel_multipliers": [1, 1, 2], "blocks_per_level": 1, "z_channels": 32}
BATCH, DIM, TOKENS = 3, 6, 8
LENGTHS = torch.tensor([8, 3, 6])


def make(kind: str) -> Decoder:
    torch.manual_seed(0)
    if kind == "qformer":
        decoder = CNNQFormerDecoder(dim=DIM, num_tokens=16, input_size=(32, 32), width=32, depth=2, num_heads=2, **CNN)
    else:
        sizes = {"patch_size": 8, "width": 64, "depth": 3, "num_heads": 4, "axes": [4, 6, 6]}
        decoder = RotaryLatentDecoder(dim=DIM, input_size=(32, 32), double_after=[1], **sizes)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return decoder


def codes(tokens: int = TOKENS) -> torch.Tensor:
    return torch.randn(BATCH, 16, DIM, generator=torch.Generator().manual_seed(5))[:, :tokens]


def mask(tokens: int = TOKENS) -> torch.Tensor:
    return torch.arange(tokens) < LENGTHS[:, None]


@pytest.mark.parametrize("kind", ["qformer", "rotary"])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_a_hidden_token_changes_no_bit_and_a_shown_one_does(kind: str, needs_grad: bool) -> None:
    decoder, x = make(kind).train(needs_grad), codes()
    other = torch.where(mask()[..., None], x, torch.full_like(x, 7.0))
    given = [y.clone().requires_grad_(needs_grad) for y in (x, other)]
    pictures = [decoder({"main": Stream(y, mask_BN=mask())}) for y in given]
    assert torch.equal(*pictures)
    if needs_grad:
        pictures[0].square().sum().backward()
        assert torch.equal(given[0].grad.ne(0).any(dim=2), mask()), "no gradient reaches what is hidden"
    shown = other.clone().detach()
    shown[1, 2] += 1
    changed = decoder({"main": Stream(shown.requires_grad_(needs_grad), mask_BN=mask())})
    assert not torch.equal(changed[1], pictures[0][1]), "a token that is there counts"


@pytest.mark.parametrize("kind", ["qformer", "rotary"])
def test_more_hidden_tokens_change_no_bit(kind: str) -> None:
    decoder = make(kind).eval()
    picture = decoder({"main": Stream(codes(), mask_BN=mask())})
    assert torch.equal(decoder({"main": Stream(codes(16), mask_BN=mask(16))}), picture)
    cut = decoder({"main": Stream(codes(3))})
    everywhere = decoder({"main": Stream(codes(16), mask_BN=(torch.arange(16) < 3).expand(BATCH, 16))})
    assert torch.equal(everywhere, cut), "as tail drop trains it"
