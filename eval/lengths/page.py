"""The curve over tokens in report.html: charts, table, and pictures that grow under a slider."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

from ..report.charts import length_chart
from .curve import GrowingPicture
from .table import (
    LOWER_IS_BETTER,
    SIZES,
    caption,
    codec_cells,
    codec_lines,
    codec_metrics,
    is_random,
    metric_name,
    metrics_of,
    shown_bytes,
    shown_number,
)

BADGE = '<span class="badge">random weights</span>'


def curve_section(
    curve: Mapping[str, Any] | None, pictures: Sequence[GrowingPicture], *, data_uri: Callable[[Tensor], str]
) -> str:
    if not curve:
        return ""
    parts = [
        f"<section><h2>Quality against tokens</h2><p>{escape(caption(curve))}</p>",
        slider(curve, pictures, data_uri=data_uri),
        charts(curve),
        table(curve),
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in codec_lines(curve))}</ul></section>",
    ]
    return "".join(parts)


def charts(curve: Mapping[str, Any]) -> str:
    points, codecs = curve["points"], curve["codecs"]
    bits = points[-1]["bits"] / points[-1]["tokens"] if "bits" in points[-1] else None
    figures = []
    for key in metrics_of(curve):
        series = [("this tokenizer", [(p["tokens"], p[key]) for p in points])]
        for name, codec in codecs.items():
            line = [
                (p["tokens"], c[key])
                for p, c in zip(points, codec["points"], strict=True)
                if c["fit"] == curve["images"] and key in c
            ]
            least = codec["smallest"]
            if key in least:  # where the codec begins, in tokens of as many bytes
                line = sorted({(least["bytes"] * 8 / bits, least[key]), *line})
            series.append((name, line))
        way = "lower is better" if key.startswith(LOWER_IS_BETTER) else "higher is better"
        mark = BADGE if is_random(key) else ""
        label = "tokens" + (f" (of {bits:.4g} bits; 8 bits are a byte)" if bits else "")
        chart = length_chart([s for s in series if s[1]], ticks=[p["tokens"] for p in points], x_label=label)
        figures.append(
            f"<figure><figcaption><b>{escape(metric_name(key))}</b>, {way}{mark}</figcaption>{chart}</figure>"
        )
    names = ["this tokenizer", *codecs]
    key = "".join(f'<span><i class="k{i}"></i>{escape(name)}</span>' for i, name in enumerate(names))
    key += "<span>A codec's line begins at its smallest files, headers included.</span>" if codecs else ""
    return f'<p class="key whole">{key}</p><div class="charts">{"".join(figures)}</div>'


def table(curve: Mapping[str, Any]) -> str:
    metrics, codecs, shared = metrics_of(curve), list(curve["codecs"]), codec_metrics(curve)
    sizes = [key for key in SIZES if key in curve["points"][0] and key != "bits"]
    groups = f'<th colspan="{len(sizes) + len(metrics)}">this tokenizer</th>'
    groups += "".join(f'<th class="coder" colspan="{len(shared)}">{escape(name)}</th>' for name in codecs)
    heads = [f'<th class="num">{name}</th>' for name in sizes]
    heads += [f'<th class="num">{escape(metric_name(k))}{BADGE if is_random(k) else ""}</th>' for k in metrics]
    heads += [f'<th class="num">{escape(metric_name(key))}</th>' for _ in codecs for key in shared]
    lines = []
    for row, point in enumerate(curve["points"]):
        cells = [f"{point['tokens']:,}", *([shown_bytes(point["bytes"])] if "bytes" in sizes else [])]
        cells += [shown_number(key, point[key]) for key in metrics]
        line = "".join(f'<td class="num">{cell}</td>' for cell in cells)
        for name in codecs:
            found = codec_cells(curve, name, row)
            if isinstance(found, str):
                line += f'<td class="none" colspan="{len(shared)}">{found}</td>'
            else:
                line += "".join(f'<td class="num">{cell}</td>' for cell in found)
        lines.append(f"<tr>{line}</tr>")
    grouped = f"<tr>{groups}</tr>" if codecs and shared else ""
    return (
        f'<div class="wide"><table class="lengths"><thead>{grouped}<tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def slider(curve: Mapping[str, Any], pictures: Sequence[GrowingPicture], *, data_uri: Callable[[Tensor], str]) -> str:
    """Radio buttons in a row: arrow keys and clicks need no script, dragging a line of one."""
    if not pictures:
        return ""
    small = " pixelated" if pictures[0].reference.shape[-1] < 128 else ""
    given = "".join(
        f'<figure><img alt="input" src="{data_uri(p.reference)}"><figcaption title="{escape(p.key)}">{escape(p.key)}'
        "</figcaption></figure>"
        for p in pictures
    )
    stops, last = [], len(curve["points"]) - 1
    for i, point in enumerate(curve["points"]):
        size = f"{point['tokens']:,} token{'s' * (point['tokens'] > 1)}"
        size += f", {shown_bytes(point['bytes'])} bytes" if "bytes" in point else ""
        shown = "".join(
            f'<figure><img alt="{size}" src="{data_uri(p.reconstructions[i])}">'
            f"<figcaption><b>{p.psnr[i]:.2f}&nbsp;dB</b></figcaption></figure>"
            for p in pictures
        )
        checked = " checked" if i == last else ""
        column = f'style="grid-column:{i + 1}"'
        stops.append(
            f'<input type="radio" name="length" id="length{i}" aria-label="{size}" {column}{checked} '
            f'onpointerenter="if(event.buttons)this.checked=true">'
            f'<div class="at"><p>{size}</p><div class="row">{shown}</div></div>'
            f'<label for="length{i}" {column}>{point["tokens"]:,}</label>'
        )
    return (
        f'<div class="growing{small}"><div class="row given">{given}</div>'
        f'<div class="slider" role="radiogroup" aria-label="tokens" style="--stops:{last + 1}">{"".join(stops)}</div>'
        '<p class="key whole">Above: the images as given. Below: with so many tokens. Drag, click, or arrow keys.</p>'
        "</div>"
    )
