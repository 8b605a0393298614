"""Each quantizer against the published one: indices, codes, codes from indices, losses and gradients."""

from pathlib import Path

import pytest

from ..released.compared import check_fixture

MADE = (
    "indices",
    "quantized",
    "codebook_",
    "commitment_",
    "entropy",
    "quantizer_loss",
    "vq_loss",
    "grad_",
    "binary_code",
)
MADE += ("semantic_indices", "pixel_indices", "pixel_quantized", "pixel_commitment", "semantic_commitment")
MADE += ("bounded",)
SYSTEMS = (
    "llamagen_vq16",
    "vqgan",
    "titok",
    "titok_single_stage",
    "gigatok",
    "dualtoken",
    "dualvitok",
    "tokenflow_clip",
)
SYSTEMS += ("unitok", "meditok", "instella_bae", "flextok", "ibq", "open_magvit2", "wetok", "imagefolder")
SYSTEMS += ("xqgan_vq", "xqgan_bsq")


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_makes_the_published_codes(system: str, parity_folder: Path) -> None:
    check_fixture(parity_folder / system, system, only=MADE)
