"""A tokenizer's answer without a tokenizer."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from imtok.common.types import Quantized, TokenizerOutput
from imtok.tokenizers.feature_taps import FeatureTaps


class FakeTokenizer(nn.Module):
    """Offers what loss terms and the adversary ask a tokenizer about; its picture is one convolution of the image."""

    def __init__(self, *, loss_names=("codebook", "commit"), cheap=True, image_size=(32, 32)):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(3, 4, 3, padding=1)
        self.conv_out = nn.Conv2d(4, 3, 3, padding=1)
        self.quantizer = SimpleNamespace(loss_names=loss_names)
        self.decoder = SimpleNamespace(loss_names=("flow",), cheap_sample=cheap)
        self.image_size = image_size
        self.taps = FeatureTaps()

    @property
    def last_layer(self):
        return self.conv_out.weight

    def forward(self, images):
        return output_of(self.conv_out(torch.tanh(self.trunk(images))))


def output_of(reconstruction, *, losses=None, decoder_losses=None, sample_mask=None):
    quantized = Quantized(codes={}, indices={}, losses=losses or {}, sample_mask=sample_mask)
    return TokenizerOutput({}, quantized, reconstruction, decoder_losses or {})


def images(count=2, size=32, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(name="FakeTokenizer")
def _fake_tokenizer():
    return FakeTokenizer


@pytest.fixture(name="output_of")
def _output_of():
    return output_of


@pytest.fixture(name="images")
def _images():
    return images
