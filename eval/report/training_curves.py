"""Series of a training run's metrics.csv for small charts."""

import csv
import math
from pathlib import Path

from .charts import Point

MAX_POINTS = 240
GAN = ("gan_generator", "gan_discriminator", "gan_weight")
FIRST = ("total", "psnr", "l1", "l2", "lpips", *GAN, "usage", "perplexity")


def read_columns(file: Path) -> dict[str, list[Point]]:
    """{column: [(update, value)]} of a metrics.csv, with values that are not finite; empty without a file."""
    found: dict[str, list[Point]] = {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                update = _number(row.get("update"))
                for column, text in row.items():
                    value = _number(text)
                    if column and update is not None and value is not None:
                        found.setdefault(column, []).append((update, value))
    return found


def read_curves(file: Path) -> dict[str, list[tuple[str, list[Point]]]]:
    """{quantity: [("train", points), ("val", points)]}, the losses first; empty without a file."""
    found: dict[str, dict[str, list[Point]]] = {}
    for column, points in read_columns(file).items():
        stage, slash, quantity = column.partition("/")
        finite = [point for point in points if math.isfinite(point[1])]
        if slash and finite:
            found.setdefault(quantity, {})[stage] = finite
    order = sorted(found, key=lambda q: (FIRST.index(q) if q in FIRST else len(FIRST), q))
    return {q: [(stage, _thin(found[q][stage])) for stage in sorted(found[q])] for q in order}


def _number(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None


def _thin(points: list[Point]) -> list[Point]:
    """Means of neighbours: a thousand updates on 240 pixels would only show noise."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]
