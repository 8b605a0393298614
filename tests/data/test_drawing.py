"""What is drawn, against closed forms of the shapes and a reference of the pixels.

drawing_N.npy holds mean and deviation of 8 x 8 blocks of images that version N draws. Images of a version are cached
for good, so a change that moves them needs a new DRAWING_VERSION; `python tests/data/test_drawing.py` then writes the
file.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from imtok.data.drawing import draw_picture
from imtok.data.scenes import DRAWING_VERSION, SHAPES, draw_scene
from imtok.data.shapes import signed_distance

REFERENCE = Path(__file__).with_name(f"drawing_{DRAWING_VERSION}.npy")
COUNT, SIZE = 40, 64


def blocks() -> tuple[np.ndarray, list]:
    """uint8 [2, COUNT, 3, 8, 8], and the scenes."""
    scenes = [draw_scene(seed=5, split="val", index=i, text_share=0.5) for i in range(COUNT)]
    drawn = [draw_picture(s, seed=5, split="val", index=i, size=SIZE) for i, s in enumerate(scenes)]
    cells = np.stack(drawn).astype(float).reshape(COUNT, 3, 8, 8, 8, 8)
    return np.stack([cells.mean((3, 5)), cells.std((3, 5))]).round().astype(np.uint8), scenes


def test_images_are_those_of_their_version():
    found, scenes = blocks()
    assert {thing.shape for scene in scenes for thing in scene.things} == set(SHAPES)
    assert {scene.text is None for scene in scenes} == {True, False}
    assert np.abs(found.astype(int) - np.load(REFERENCE)).max() <= 1


def polygon(*corners: tuple[float, float]) -> float:
    return (
        abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True))) / 2
    )


def lens(r: float, s: float, d: float) -> float:
    """Area that two discs of radii r and s at distance d have in common."""
    a, b = (d * d + r * r - s * s) / (2 * d * r), (d * d + s * s - r * r) / (2 * d * s)
    kite = math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s)) / 2
    return r * r * math.acos(a) + s * s * math.acos(b) - kite


AREAS = {
    "circle": math.pi * 0.92**2,
    "ring": math.pi * (0.94**2 - 0.5**2),
    "crescent": math.pi * 0.95**2 - lens(0.95, 0.75, 0.5),
    "square": 1.6**2,
    "triangle": 1.9 * 1.65 / 2,
    "hexagon": 1.5 * math.sqrt(3) * 0.97**2,
    "star": 5 * 0.42 * math.sin(math.pi / 5),
    "cross": 2 * 1.9 * 0.6 - 0.6**2,
    "arrow": 1.15 * 0.6 + 0.8 * 1.5 / 2,
    "heart": math.pi * 180 * 0.058**2,  # of the curve (16 sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t)
}


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_of_the_shape(shape):
    """Area and symmetry of what lies inside, and a slope of 1: a distance, not just a mask."""
    t = np.linspace(-1.2, 1.2, 601, dtype=np.float32)
    distance = signed_distance(shape, t[None], t[:, None])
    inside, cell = distance < 0, (t[1] - t[0]) ** 2
    assert inside.sum() * cell == pytest.approx(AREAS[shape], rel=0.035 if shape == "heart" else 0.01)
    assert np.hypot(*t[np.stack(np.nonzero(inside))]).max() < 1.2
    slope = np.hypot(*np.gradient(distance, t[1] - t[0]))
    assert np.median(slope) == pytest.approx(1, abs=0.01) and slope.max() < 1.5
    mirrored = inside[::-1] if shape in ("arrow", "crescent") else inside[:, ::-1]
    assert (inside == mirrored).mean() > 0.995


if __name__ == "__main__":
    np.save(REFERENCE, blocks()[0])
