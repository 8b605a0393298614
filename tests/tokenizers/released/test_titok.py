"""Readers of TiTok, TA-TiTok and One-D-Piece, against their reference implementations' outputs."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.tokenizers import released

from .compared import check_fixture, imported, read

SYSTEMS = ("titok", "titok_single_stage", "ta_titok", "one_d_piece")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_output_of_the_reference(parity_folder, system) -> None:
    check_fixture(parity_folder / system, system)


@pytest.mark.parametrize("system", ["titok_single_stage", "one_d_piece"])
def test_the_imported_tokenizer_speaks_our_range(parity_folder, system) -> None:
    _, _, io = read(parity_folder / system)
    tokenizer, images = imported(parity_folder / system, system), 2 * io["image"] - 1
    indices = tokenizer.tokenize(images)
    assert torch.equal(indices.transpose(1, 2), io["indices"])
    expected = (2 * io["decoded"] - 1).clamp(-1, 1)
    torch.testing.assert_close(tokenizer.detokenize(indices), expected, atol=1e-3, rtol=0)


def test_fewer_tokens_are_the_references_truncation(parity_folder) -> None:
    _, _, io = read(parity_folder / "one_d_piece")
    tokenizer, images = imported(parity_folder / "one_d_piece", "one_d_piece"), 2 * io["image"] - 1
    for k in (1, 8, 23):
        expected = (2 * io[f"decoded_keep{k}"] - 1).clamp(-1, 1)
        short = tokenizer.tokenize(images, num_tokens=k)
        assert short.shape == (2, k, 1)
        torch.testing.assert_close(tokenizer.detokenize(short), expected, atol=1e-3, rtol=0)
    mixed = tokenizer.detokenize(tokenizer.tokenize(images, num_tokens=[8, 23]))
    torch.testing.assert_close(mixed[0], (2 * io["decoded_keep8"] - 1).clamp(-1, 1)[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(mixed[1], (2 * io["decoded_keep23"] - 1).clamp(-1, 1)[1], atol=1e-3, rtol=0)


def test_a_gaussian_bottleneck_is_told_by_its_missing_codebook(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "titok_single_stage")
    state = {k: v for k, v in state.items() if not k.startswith("quantize.")}
    weight, bias = state["encoder.conv_out.weight"], state["encoder.conv_out.bias"]
    state |= {"encoder.conv_out.weight": torch.cat([weight, weight]), "encoder.conv_out.bias": torch.cat([bias, bias])}
    family = released.find("titok_single_stage")
    tokenizer, report = family.import_state(state, image_size=32, constructor=constructor)
    assert set(report.used) == set(state) and type(tokenizer.quantizer).__name__ == "KL"
    _, _, io = read(parity_folder / "titok_single_stage")
    codes = tokenizer.quantize(2 * io["image"] - 1).codes["main"].x_BND
    torch.testing.assert_close(codes.transpose(1, 2), io["z"][:, :, 0], atol=1e-4, rtol=1e-4)  # its mean


def test_a_first_stage_checkpoint_is_one_clear_error(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "titok")
    state = {k: v for k, v in state.items() if not k.startswith("pixel_")}
    with pytest.raises(UserError, match=r"no 'pixel_quantize.embedding.weight'"):
        released.find("titok").import_state(state, image_size=64, constructor=constructor)


def test_published_sizes(parity_folder) -> None:
    """TiTok-S-128 by its published parameter shapes (methods sheet, section 1.6)."""
    from imtok.common.build import build
    from imtok.configs.compose import compose_config

    config = compose_config("train", ["experiment=titok_s128/stage2"])
    with torch.device("meta"):
        own = build(config["tokenizer"], key="tokenizer").state_dict()
    shapes = {
        "encoder.queries": (128, 512),
        "encoder.positions": (257, 512),
        "encoder.patches.weight": (512, 3, 16, 16),
        "encoder.transformer.blocks.7.attn.qkv.weight": (1536, 512),
        "encoder.transformer.blocks.7.mlp.fc1.weight": (2048, 512),
        "encoder.project.weight": (12, 512),
        "quantizer.codebook": (4096, 12),
        "decoder.vit.embed.weight": (512, 12),
        "decoder.vit.latent_positions": (128, 512),
        "decoder.to_logits.0.weight": (1024, 512),
        "decoder.to_logits.2.weight": (1024, 1024),
        "decoder.codebook": (1024, 256),
        "decoder.pixels.conv_in.weight": (512, 256, 3, 3),
    }
    assert {name: tuple(own[name].shape) for name in shapes} == shapes
