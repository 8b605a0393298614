"""Readers of ImageFolder and XQ-GAN, against their reference implementations' outputs."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.tokenizers import released

from .compared import check_fixture, read

SYSTEMS = ["imagefolder", "xqgan_vq", "xqgan_bsq"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_output_of_the_reference(parity_folder, system: str) -> None:
    check_fixture(parity_folder / system, system)


def test_teachers_are_left_out_and_strangers_refused(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "xqgan_vq")
    family = released.find("xqgan_vq")
    teacher = {"semantic_model.blocks.0.norm1.weight": torch.ones(3), "sem_linear.weight": torch.ones(3)}
    _, report = family.import_state({**state, **teacher}, image_size=64, constructor=constructor)
    assert set(report.ignored) == set(teacher)
    with pytest.raises(UserError, match=r"1 unexpected: encoder.surprise"):
        family.import_state({**state, "encoder.surprise": torch.zeros(1)}, image_size=64, constructor=constructor)
    short = {k: v for k, v in state.items() if k != "decoder.model.blocks.1.ls2.gamma"}
    with pytest.raises(UserError, match=r"1 missing: decoder.vit.blocks.1.ls2.gamma"):
        family.import_state(short, image_size=64, constructor=constructor)
    with pytest.raises(UserError, match="not of the family"):
        family.import_state({"backbone.weight": torch.zeros(1)})


def test_tables_are_checked_not_trusted(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "xqgan_bsq")
    family = released.find("xqgan_bsq")
    for name, what in {"encoder.lvl1LC": "latent tokens", "quantizes.1.scaler": "binary codes"}.items():
        broken = {**state, name: state[name] + 1}
        with pytest.raises(UserError, match=what):
            family.import_state(broken, image_size=64, constructor=constructor)


def test_scales_that_no_shape_shows(parity_folder) -> None:
    constructor, state, _ = read(parity_folder / "imagefolder")
    without = {k: v for k, v in constructor.items() if k != "v_patch_nums"}
    with pytest.raises(UserError, match="5 scales on a 4x4 grid"):
        released.find("imagefolder").import_state(state, image_size=64, constructor=without)


@pytest.mark.parametrize("shared", [0, 1])
def test_other_ways_of_sharing_the_smoothing(parity_folder, shared: int) -> None:
    """One convolution a scale, or one for all; the fixture has four for five scales."""
    constructor, state, _ = read(parity_folder / "imagefolder")
    kept = {k: v for k, v in state.items() if "quant_resi" not in k}
    for branch in (0, 1):
        for name in ("weight", "bias"):
            given = state[f"quantizes.{branch}.quant_resi.qresi_ls.0.{name}"]
            places = [f"{number}." for number in range(5)] if shared == 0 else ["qresi."]
            kept |= {f"quantizes.{branch}.quant_resi.{place}{name}": given for place in places}
    tokenizer, _ = released.find("imagefolder").import_state(kept, image_size=64, constructor=constructor)
    assert len(tokenizer.quantizer.parts[0].phi.convs) == (5 if shared == 0 else 1)
