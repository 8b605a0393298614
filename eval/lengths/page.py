"""Curve over tokens for report.html: charts, table, and images that grow under a slider."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from ..report.charts import length_chart
from .curve import GrowingPicture
from .table import caption, codec_lines, columns_of, shown_bytes, size_names, table_rows

OWN = "this tokenizer"


def curve_context(
    results: Mapping[str, Any], pictures: Sequence[GrowingPicture], *, data_uri: Callable[[Tensor], str]
) -> dict[str, Any]:
    """What curve.html shows."""
    curve, columns = results["curve"], columns_of(results)
    return {
        "caption": caption(curve),
        "columns": columns,
        "shared": [column for column in columns if column.of_codecs],
        "sizes": size_names(curve),
        "codecs": list(curve["codecs"]),
        "names": [OWN, *curve["codecs"]],
        "charts": [(column, _chart(curve, column.key)) for column in columns],
        "table": table_rows(curve, columns),
        "lines": codec_lines(curve),
        "pixelated": bool(pictures) and pictures[0].reference.shape[-1] < 128,
        "given": [(picture.key, data_uri(picture.reference)) for picture in pictures],
        "stops": [_stop(point, i, pictures, data_uri) for i, point in enumerate(curve["points"])] if pictures else [],
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


def _stop(
    point: Mapping[str, Any], number: int, pictures: Sequence[GrowingPicture], data_uri: Callable[[Tensor], str]
) -> dict[str, Any]:
    """Where the slider stops: a length, and the images at it."""
    size = f"{point['tokens']:,} token{'s' * (point['tokens'] > 1)}"
    size += f", {shown_bytes(point['bytes'])} bytes" if "bytes" in point else ""
    shown = [(data_uri(p.reconstructions[number]), f"{p.psnr[number]:.2f}") for p in pictures]
    return {"size": size, "tokens": f"{point['tokens']:,}", "shown": shown}
