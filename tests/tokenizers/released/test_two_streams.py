"""Readers of TokenFlow, DualToken, DualViTok, UniTok and MedITok, against their reference implementations' outputs."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.tokenizers import released

from .compared import check_fixture, imported, read

SYSTEMS = ["tokenflow_clip", "tokenflow_siglip", "dualtoken", "dualvitok", "unitok", "meditok"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_output_of_the_reference(parity_folder, system: str) -> None:
    check_fixture(parity_folder / system, system)


def test_text_towers_and_unused_tails_stay_beside(parity_folder) -> None:
    wanted = {
        "dualtoken": ("siglip_model.text_model.", "siglip_model.logit_"),
        "tokenflow_siglip": ("encoder_vqkd.head.", "encoder_vqkd.post_layernorm.", "encoder_vqkd.encoder.layers.2."),
        "unitok": ("logit_scale",),
    }
    for system, prefixes in wanted.items():
        constructor, state, _ = read(parity_folder / system)
        size = constructor["image_size"]
        tokenizer, report = released.find(system).import_state(state, image_size=size, constructor=constructor)
        assert report.beside == sorted(name for name in state if name.startswith(prefixes))
        own = sum(t.numel() for t in tokenizer.state_dict().values())
        beside = sum(state[name].numel() for name in report.beside)
        assert own <= sum(t.numel() for t in state.values()) - beside + 1000  # and they are in no other part


def test_keys_of_older_transformers_and_training_checkpoints(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "tokenflow_siglip")
    tower = "encoder_vqkd."
    renamed = {k.replace(tower, f"{tower}vision_model."): v for k, v in state.items()}
    extra = {"quantize.codebook_used": torch.zeros(8)}
    given = {"image_size": constructor["image_size"], "constructor": constructor}
    family = released.find("tokenflow_siglip")
    one, _ = family.import_state(state, **given)
    other, report = family.import_state({**renamed, **extra}, **given)
    assert report.ignored == ["quantize.codebook_used"]
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())


def test_tokenflow_at_a_size_it_was_not_trained_at(parity_folder) -> None:
    """As published with `infer_interpolate`: 16x16 codes, the 9 scales of that grid, positions resampled."""
    constructor, state, _ = read(parity_folder / "tokenflow_clip")
    family, patch = released.find("tokenflow_clip"), state["encoder_vqkd.conv1.weight"].shape[-1]
    trained, size = constructor["image_size"], 16 * patch
    tokenizer, _ = family.import_state(state, image_size=size, constructor=constructor)
    own, _ = family.import_state(state, image_size=trained, constructor=constructor)
    assert trained != size and tokenizer.num_tokens == 817
    assert all(torch.equal(v, own.state_dict()[k]) for k, v in tokenizer.state_dict().items())
    images = torch.rand(1, 3, size, size) * 2 - 1
    assert tokenizer.reconstruct(images).shape == images.shape
    assert torch.equal(tokenizer.detokenize(tokenizer.tokenize(images)), tokenizer.reconstruct(images))
    with pytest.raises(
        UserError, match=rf"data.image_size=\[{size}, {size}\]: .* these images give 16x16; set scales that end"
    ):
        own.reconstruct(images)
    with pytest.raises(
        UserError, match=r"--image-size=.*18x18 codes, and no shape shows their scales; known are those of"
    ):
        family.import_state(state, image_size=18 * patch, constructor=constructor)


def test_tables_are_checked_not_trusted(parity_folder) -> None:
    broken = {
        "tokenflow_siglip": ("scaling_layer.shift", "not what its tower was published with"),
        "dualtoken": ("prequant_pix.attn.zero_k_bias", "is not zero"),
        "unitok": ("quant_proj.attn.zero_k_bias", "is not zero"),
    }
    for system, (name, reason) in broken.items():
        constructor, state, _ = read(parity_folder / system)
        state[name] = state[name] + 1
        with pytest.raises(UserError, match=reason):
            released.find(system).import_state(state, image_size=constructor["image_size"], constructor=constructor)


def test_two_streams_tokenize_side_by_side_or_as_a_dict(parity_folder) -> None:
    """The layout says semantic first; K is 3 for both streams of DualToken, and a dict where they differ."""
    _, _, io = read(parity_folder / "dualtoken")
    tokenizer = imported(parity_folder / "dualtoken", "dualtoken")
    indices = tokenizer.tokenize(io["image"])
    assert indices.shape == (2, 32, 3)
    assert torch.equal(indices[:, :16], io["semantic_indices"].flatten(1, 2))
    assert torch.equal(indices[:, 16:], io["pixel_indices"].flatten(1, 2))
    assert torch.equal(tokenizer.detokenize(indices), tokenizer.reconstruct(io["image"]))
    assert [s.stream for s in tokenizer.index_layout()] == ["semantic", "pixel"]
    assert tokenizer.bits_per_image == 2 * 16 * 3 * 7
    by_stream = {"semantic": indices[:, :16], "pixel": indices[:, 16:]}
    assert torch.equal(tokenizer.detokenize(by_stream), tokenizer.detokenize(indices))


def test_grids_may_differ_and_ranges_are_checked_by_stream(parity_folder) -> None:
    _, _, io = read(parity_folder / "dualvitok")
    tokenizer = imported(parity_folder / "dualvitok", "dualvitok")
    indices = tokenizer.tokenize(io["image"])
    assert indices.shape == (2, 9 + 144, 1)
    assert torch.equal(tokenizer.detokenize(indices), tokenizer.reconstruct(io["image"]))
    wide = torch.rand(1, 3, 56, 96) * 2 - 1  # 2 x 3 of meaning, 7 x 12 of pixels
    assert tokenizer.tokenize(wide).shape == (1, 6 + 84, 1)
    assert tokenizer.detokenize(tokenizer.tokenize(wide), image_size=(56, 96)).shape == wide.shape
    indices[0, 0] = 200  # there are 128 semantic codes and 256 pixel codes
    with pytest.raises(UserError, match="indices of the stream 'semantic' reach 200, but the codebook has 128"):
        tokenizer.detokenize(indices)
    assert tokenizer.codebook_size == (128, 256)
