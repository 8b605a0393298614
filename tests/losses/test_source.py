"""Where a loss reads: which texts name a place, and how what lies there becomes a stream."""

import pytest
import torch

from imtok.losses.source import Reading, as_stream


@pytest.mark.parametrize("text", ["codes", "codes.", "pictures.main", ".main", "reconstruction"])
def test_a_text_that_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^reads={text}: give one of codes\.STREAM"):
        Reading.parse(text)


@pytest.mark.parametrize(
    ("text", "kind", "name", "quantized"),
    [
        ("codes.main", "codes", "main", True),
        ("latents.fine", "latents", "fine", False),
        ("heads.semantic", "heads", "semantic", True),
        ("features.encoder.blocks.3", "features", "encoder.blocks.3", False),
        ("features.decoder.conv_in", "features", "decoder.conv_in", True),
        ("features.space.net", "features", "space.net", None),
    ],
)
def test_a_place_has_a_kind_a_name_and_a_side_of_the_quantizer(text, kind, name, quantized) -> None:
    reading = Reading.parse(text)
    assert (reading.kind, reading.name, reading.through_quantizer) == (kind, name, quantized)
    assert reading.taps == ({name: name} if kind == "features" else {})


def test_maps_tokens_and_vectors_become_streams() -> None:
    image_map = torch.randn(2, 3, 4, 5)
    stream = as_stream(image_map)
    assert stream.grid == (4, 5) and torch.equal(stream.x_BND[1, 7], image_map[1, :, 1, 2])
    vector = torch.randn(2, 6)
    assert as_stream(vector).grid == (1, 1) and torch.equal(as_stream(vector).x_BND[:, 0], vector)
    assert as_stream(torch.zeros(2, 9, 4)).grid == (3, 3)
    assert as_stream(torch.zeros(2, 8, 4)).grid is None
