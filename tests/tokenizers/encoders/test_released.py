"""Each encoder against what the published one made of the same image with the same weights."""

from pathlib import Path

import pytest

from ..released.compared import check_fixture

VECTORS = ("z", "encoder_out", "spatial", "semantic_z", "pixel_z")
SYSTEMS = (
    "llamagen_vq16",
    "open_magvit2",
    "maskgit_vqgan",
    "gigatok",
    "titok",
    "one_d_piece",
    "flextok",
    "instella_bae",
)
SYSTEMS += ("dualtoken", "dualvitok", "tokenflow_clip", "tokenflow_siglip", "unitok", "imagefolder", "xqgan_vq")


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_makes_the_published_vectors(system: str, parity_folder: Path) -> None:
    check_fixture(parity_folder / system, system, only=VECTORS)
