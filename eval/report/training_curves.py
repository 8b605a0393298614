"""Series of a training run's metrics.csv for small charts."""

import csv
import math
from pathlib import Path

from .charts import Point

MAX_POINTS = 240
FIRST = (
    "total",
    "psnr",
    "l1",
    "l2",
    "lpips",
    "gan_generator",
    "gan_discriminator",
    "gan_weight",
    "usage",
    "perplexity",
)


def read_curves(file: Path) -> dict[str, list[tuple[str, list[Point]]]]:
    """{quantity: [("train", points), ("val", points)]}, the losses first; empty without a file."""
    if not file.is_file():
        return {}
    found: dict[str, dict[str, list[Point]]] = {}
    with file.open(newline="") as lines:
        for row in csv.DictReader(lines):
            update = _number(row.get("update"))
            for column, text in row.items():
                value = _number(text)
                if update is None or value is None or column is None or "/" not in column:
                    continue
                stage, _, quantity = column.partition("/")
                found.setdefault(quantity, {}).setdefault(stage, []).append((update, value))
    order = sorted(found, key=lambda q: (FIRST.index(q) if q in FIRST else len(FIRST), q))
    return {q: [(stage, _thin(found[q][stage])) for stage in sorted(found[q])] for q in order}


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _thin(points: list[Point]) -> list[Point]:
    """Means of neighbours: a thousand updates on 240 pixels would only show noise."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(g[-1][0], sum(y for _, y in g) / len(g)) for g in groups]
