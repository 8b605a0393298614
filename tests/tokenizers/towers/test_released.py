"""Towers inside published tokenizers, with the weights of their fixtures."""

from pathlib import Path

import pytest

from ..released.compared import check_fixture

MADE = ("semantic_z", "semantic_target", "encoder_out")
SYSTEMS = ("dualtoken", "dualvitok", "tokenflow_clip", "tokenflow_siglip", "unitok")


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_makes_the_published_features(system: str, parity_folder: Path) -> None:
    check_fixture(parity_folder / system, system, only=MADE)
