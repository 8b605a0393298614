"""Signed distances (negative inside) of the shape classes, at radius 1 around the origin, y pointing down."""

import math
from functools import cache

import numpy as np


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if shape == "circle":
        return np.hypot(x, y) - np.float32(0.92)
    if shape == "ring":
        return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.22)
    if shape == "crescent":
        return np.maximum(np.hypot(x, y) - np.float32(0.95), np.float32(0.75) - np.hypot(x - np.float32(0.5), y))
    return _polygon_distance(_corners(shape), x, y)


def _regular(corners: int, radius: float = 1.0, start: float = -math.pi / 2) -> list[tuple[float, float]]:
    angles = [start + 2 * math.pi * k / corners for k in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


@cache
def _corners(shape: str) -> np.ndarray:
    a = 0.3  # half the width of an arm of the cross
    points = {
        "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
        "triangle": [(0, -0.95), (0.95, 0.7), (-0.95, 0.7)],
        "hexagon": _regular(6, 0.97, start=0.0),
        "star": [p for pair in zip(_regular(5), _regular(5, 0.42, start=-math.pi * 0.3), strict=True) for p in pair],
        "cross": [
            *((-a, -0.95), (a, -0.95), (a, -a), (0.95, -a), (0.95, a), (a, a)),
            *((a, 0.95), (-a, 0.95), (-a, a), (-0.95, a), (-0.95, -a), (-a, -a)),
        ],
        "arrow": [(1, 0), (0.2, -0.75), (0.2, -0.3), (-0.95, -0.3), (-0.95, 0.3), (0.2, 0.3), (0.2, 0.75)],
        "heart": [  # the well-known parametric heart, scaled to radius 1
            (0.058 * 16 * math.sin(t) ** 3,
             -0.058 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) - 0.08)
            for t in np.linspace(0, 2 * math.pi, 20, endpoint=False)
        ],
    }[shape]  # fmt: skip
    return np.asarray(points, dtype=np.float32)


def _polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the nearest edge, its sign by the crossings of a ray; all edges at once."""
    ax, ay = corners.T[:, :, None, None]
    bx, by = np.roll(corners, -1, axis=0).T[:, :, None, None]
    ex, ey = bx - ax, by - ay
    dx, dy = x - ax, y - ay
    length = ex * ex + ey * ey
    along = dx * (ex / length) + dy * (ey / length)
    np.minimum(along, 1, out=along)
    np.maximum(along, 0, out=along)
    nearest = ((dx - along * ex) ** 2 + (dy - along * ey) ** 2).min(0)
    slope = ex / np.where(ey == 0, np.float32(1), ey)  # a level edge is never crossed
    crossed = ((dy >= 0) != (y >= by)) & (dx < dy * slope)
    inside = np.logical_xor.reduce(crossed, axis=0)
    return np.sqrt(nearest) * np.where(inside, np.float32(-1), np.float32(1))
