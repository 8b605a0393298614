"""Activations by path."""

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.tokenizers.feature_taps import tap


def test_a_tapped_module_shows_its_output_and_nothing_stays_behind(tokenizer_node):
    tokenizer = build(tokenizer_node, key="tokenizer")
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert tokenizer(images).features == {}
    tap(tokenizer, {"first": "decoder.conv_in"}, key="loss.x.term.taps")
    output = tokenizer(images)
    expected = []
    handle = tokenizer.decoder.conv_in.register_forward_hook(lambda m, i, o: expected.append(o))
    tokenizer.eval()
    codes = tokenizer.quantize(images).codes
    tokenizer.decode(codes)
    handle.remove()
    assert output.features["first"].shape == expected[0].shape
    assert torch.equal(tokenizer(images).features["first"], expected[0])
    assert tokenizer.taps.collect() == {}
    assert not any("tap" in key for key in tokenizer.state_dict())


def test_a_wrong_path_is_one_line(tokenizer_node):
    tokenizer = build(tokenizer_node, key="tokenizer")
    with pytest.raises(UserError, match=r"loss.x.term.taps=decoder.nowhere.*encoder, quantizer"):
        tap(tokenizer, {"a": "decoder.nowhere"}, key="loss.x.term.taps")
