"""A value of the wrong kind is refused by its key, before a class fails somewhere inside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.value_types import annotations_of, what_it_takes


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3),
        (float, 3),
        (float, 1e-4),
        (bool, False),
        (str, "a"),
        (int | None, None),
        (int | Sequence[int], [3, 4]),
        (float | Mapping[str, Any], {"start": 0}),
        (tuple[float, float], [0.5, 0.9]),
        (Literal["a", "b"], "a"),
        (Sequence[str], []),
        (str, Path("built by Python, not by YAML")),
        (Any, "anything"),
        (None, "not annotated"),
    ],
)
def test_fits(annotation, value) -> None:
    assert what_it_takes(annotation, value) is None


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        (int, "many", "a whole number"),
        (int, 1e3, "a whole number"),
        (int, True, "a whole number"),
        (int, None, "a whole number"),
        (float, "1e-4x", "a number"),
        (bool, "yes", "true or false"),
        (str, 2024, "a text"),
        (int | None, "x", "a whole number or null"),
        (Sequence[int], 3, "a list, each a whole number"),
        (Sequence[int], [1, "x"], "a list, each a whole number"),
        (Sequence[str], "abc", "a list"),
        (Literal["a", "b"], "c", "one of a, b"),
        (Mapping[str, Any], 3, "settings by name"),
    ],
)
def test_does_not_fit(annotation, value, wanted: str) -> None:
    assert (what_it_takes(annotation, value) or "").startswith(wanted)


def test_build_names_the_key_and_the_value() -> None:
    vq = {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "dim": 4}
    with pytest.raises(UserError, match=r"q\.codebook_size=many: VQ takes a whole number here"):
        build({**vq, "codebook_size": "many"}, key="q")


def test_what_only_the_class_can_tell_is_one_line_too() -> None:
    huge = {"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "channels": 4 * 10**30}
    with pytest.raises(UserError, match=r"q: CNNEncoder cannot be made of these settings") as caught:
        build(huge, key="q")
    assert "\n" not in str(caught.value)


def test_annotations_of_our_parts_resolve() -> None:
    from imtok.tokenizers.encoders.cnn import CNNEncoder
    from imtok.tokenizers.quantizers.vq import VQ

    assert annotations_of(CNNEncoder.__init__)["channels"] is int
    assert annotations_of(VQ.__init__)["codebook_size"] is int
