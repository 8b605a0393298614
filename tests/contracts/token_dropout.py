"""What holds for every tokenizer with token dropout, as plain functions of the tokenizer."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from imtok.common.types import Stream
from imtok.tokenizers.tokenizer import Tokenizer


def hidden_tokens_count_for_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decoder.any_length or not tokenizer.token_dropout.cuts
    for parameter in tokenizer.parameters():  # what starts at zero would hide what is read
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    images = torch.rand(3, 3, *tokenizer.image_size) * 2 - 1
    tokenizer.train()(images)
    total = tokenizer.eval().num_tokens
    for lengths in (max(1, total // 2), [total, 1, max(1, total // 2)]):
        kept = tokenizer.quantize(images, num_tokens=lengths).codes["main"]
        picture = tokenizer.decode({"main": kept})
        assert torch.equal(tokenizer.detokenize(tokenizer.tokenize(images, num_tokens=lengths)), picture.clamp(-1, 1))
        if tokenizer.decoder.any_length:
            other = torch.where(kept.mask_BN[..., None], kept.x_BND, torch.randn_like(kept.x_BND))
            assert torch.equal(tokenizer.decode({"main": replace(kept, x_BND=other)}), picture)
    if tokenizer.decoder.any_length:  # training's cut-off sequence is what decoding sees
        half = max(1, total // 2)
        kept = tokenizer.quantize(images, num_tokens=half).codes["main"]
        assert torch.equal(tokenizer.decode({"main": Stream(kept.x_BND[:, :half])}), tokenizer.decode({"main": kept}))


def a_prefix_of_indices_says_its_codes(tokenizer: Tokenizer, lengths: int | Sequence[int]) -> None:
    images = torch.rand(3, 3, *tokenizer.image_size) * 2 - 1
    shown, tokens = tokenizer.quantize(images, num_tokens=lengths), tokenizer.tokenize(images, num_tokens=lengths)
    again = tokenizer.token_dropout.padded(tokens, tokenizer.num_tokens)
    codes = tokenizer.quantizer.indices_to_codes({"main": again}, tokenizer.stream_shapes())["main"]
    assert torch.equal(codes.mask_BN, shown.codes["main"].mask_BN)
    torch.testing.assert_close(codes.x_BND, shown.codes["main"].x_BND)
