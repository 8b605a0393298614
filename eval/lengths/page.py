"""Curve over tokens for report.html: charts, table, and images that grow under a slider."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from ..report.charts import length_chart
from .curve import GrowingPicture
from .table import caption, codec_cells, codec_lines, columns_of, shown_bytes, sizes_of

OWN = "this tokenizer"


def curve_context(
    results: Mapping[str, Any], pictures: Sequence[GrowingPicture], *, data_uri: Callable[[Tensor], str]
) -> dict[str, Any]:
    """What curve.html shows."""
    curve, columns = results["curve"], columns_of(results)
    table = []
    for row, point in enumerate(curve["points"]):
        own = [*sizes_of(point), *(column.shown(point[column.key]) for column in columns)]
        table.append((own, [codec_cells(curve, name, row, columns) for name in curve["codecs"]]))
    return {
        "caption": caption(curve),
        "columns": columns,
        "shared": [column for column in columns if column.of_codecs],
        "sizes": ["tokens", "bytes"] if "bytes" in curve["points"][0] else ["tokens"],
        "codecs": list(curve["codecs"]),
        "names": [OWN, *curve["codecs"]],
        "charts": [(column, _chart(curve, column.key)) for column in columns],
        "table": table,
        "lines": codec_lines(curve),
        "pixelated": bool(pictures) and pictures[0].reference.shape[-1] < 128,
        "given": [(picture.key, data_uri(picture.reference)) for picture in pictures],
        "stops": _stops(curve, pictures, data_uri) if pictures else [],
    }


def _chart(curve: Mapping[str, Any], key: str) -> Markup:
    points = curve["points"]
    bits = points[-1]["bits"] / points[-1]["tokens"] if "bits" in points[-1] else None
    series = [(OWN, [(p["tokens"], p[key]) for p in points])]
    for name, codec in curve["codecs"].items():
        line = [
            (p["tokens"], c[key])
            for p, c in zip(points, codec["points"], strict=True)
            if c["fit"] == curve["images"] and key in c
        ]
        least = codec["smallest"]
        if key in least:  # where the codec begins, in tokens of as many bytes
            line = sorted({(least["bytes"] * 8 / bits, least[key]), *line})
        series.append((name, line))
    label = "tokens" + (f" (of {bits:.4g} bits; 8 bits are a byte)" if bits else "")
    return Markup(length_chart([s for s in series if s[1]], ticks=[p["tokens"] for p in points], x_label=label))


def _stops(
    curve: Mapping[str, Any], pictures: Sequence[GrowingPicture], data_uri: Callable[[Tensor], str]
) -> list[dict[str, Any]]:
    """Where the slider stops: a length, and the images at it."""
    stops = []
    for i, point in enumerate(curve["points"]):
        size = f"{point['tokens']:,} token{'s' * (point['tokens'] > 1)}"
        size += f", {shown_bytes(point['bytes'])} bytes" if "bytes" in point else ""
        shown = [(data_uri(p.reconstructions[i]), f"{p.psnr[i]:.2f}") for p in pictures]
        stops.append({"size": size, "tokens": f"{point['tokens']:,}", "shown": shown})
    return stops
