"""report.html: one file that opens anywhere, offline, without a script."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..lengths.curve import GrowingPicture
from ..lengths.page import curve_section
from .charts import curve_chart, histogram_chart, rank_chart
from .gallery import Picture
from .rows import data_name, facts, metric_rows, model_title
from .training_curves import read_curves

GAIN = 4  # of the shown difference
BADGE = '<span class="badge">random weights</span>'


def html_report(
    results: Mapping[str, Any],
    pictures: Mapping[str, Sequence[Picture]],
    *,
    run_dir: Path | None,
    growing: Sequence[GrowingPicture] = (),
) -> str:
    model, data, made = results["model"], results["data"], results["provenance"]
    title = model_title(model)
    under = [
        f"<span><code>{escape(results['protocol']['label'])}</code></span>",
        f"<span>{results['num_images']:,} images of {escape(data_name(data))}</span>",
        f"<span>{' × '.join(map(str, results['image_size']))} pixels</span>",
        f"<span>{escape(made['date'])}</span>",
    ]
    experiment = model.get("experiment")
    sections = [
        metric_table(results),
        not_computed_table(results["not_computed"]),
        care_list(results["warnings"]),
        curve_section(results.get("curve"), growing, data_uri=data_uri),
        picture_shelves(pictures),
        distributions(results),
        training_curves(read_curves(Path(run_dir) / "metrics.csv") if run_dir else {}),
        fact_lists(results),
        skipped_list(results),
    ]
    version = f"imtok {made['imtok']}" + (f", git {made['git']}" if made["git"] else "")
    here = files(__package__)
    return Template((here / "report.html").read_text("utf-8")).substitute(
        title=escape(title),
        style=(here / "report.css").read_text("utf-8"),
        over=escape("Tokenizer evaluation" + (f" · {experiment}" if experiment else "")),
        under="".join(under),
        banner=random_banner(results["random_weights"]),
        body="\n".join(s for s in sections if s),
        footer=escape(f"{version}. The same numbers: metrics.json and report.md beside this file."),
    )


def random_banner(names: Sequence[str]) -> str:
    if not names:
        return ""
    which = escape(", ".join(names))
    meaning = f"Numbers with this mark have no perceptual meaning {BADGE}"
    return f'<p class="banner"><b>Random weights: {which}.</b> {meaning}</p>'


def metric_table(results: Mapping[str, Any]) -> str:
    label, n = escape(results["protocol"]["label"]), results["num_images"]
    arrows = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}
    lines, group = [], None
    for row in metric_rows(results):
        if row.group != group:
            group = row.group
            lines.append(f'<tr class="group"><td colspan="6">{escape(group)}</td></tr>')
        sign, meaning = arrows.get(row.better, ("", ""))
        arrow = f'<span class="arrow" title="{meaning}">{sign}</span>' if sign else ""
        number, _, unit = row.value.partition(" ")
        lines.append(
            f"<tr><td>{escape(row.name)}{arrow}{BADGE if row.random else ''}</td>"
            f'<td class="num value">{escape(number)}</td><td class="unit">{escape(unit)}</td>'
            f'<td class="num small">{n:,}</td><td class="small proto"><code>{label}</code></td>'
            f'<td class="note">{escape(row.note)}</td></tr>'
        )
    head = (
        '<tr><th>metric</th><th class="num">value</th><th></th><th class="num">images</th>'
        '<th class="wide">protocol</th><th class="wide"></th></tr>'
    )
    body = f"<thead>{head}</thead><tbody>{''.join(lines)}</tbody>"
    return f'<section><h2>Metrics</h2><table class="metrics">{body}</table></section>'


def not_computed_table(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    lines = "".join(
        f'<tr><td><code>{escape(name)}</code></td><td class="note">{escape(reason)}</td></tr>'
        for name, reason in reasons.items()
    )
    head = "<tr><th>metric</th><th>why, and what would compute it</th></tr>"
    return f"<section><h2>Not computed</h2><table><thead>{head}</thead><tbody>{lines}</tbody></table></section>"


def care_list(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    return f"<section><h2>Read with care</h2><ul>{''.join(f'<li>{escape(w)}</li>' for w in warnings)}</ul></section>"


def picture_shelves(pictures: Mapping[str, Sequence[Picture]]) -> str:
    shelves = []
    for name, shelf in pictures.items():
        shown = "".join(_triple(p) for p in shelf)
        shelves.append(f'<div class="shelf"><h3>{escape(name.capitalize())}</h3>{shown}</div>')
    caption = f"Input, reconstruction, and |difference| × {GAIN}; sorted by PSNR. Point at one to enlarge it."
    return (
        f'<section><h2>Best, median and worst images</h2><p class="key">{caption}</p>'
        f'<div class="pictures">{"".join(shelves)}</div></section>'
    )


def _triple(picture: Picture) -> str:
    a, b = picture.reference, picture.reconstruction
    difference = ((a.float() - b.float()).abs() * GAIN).clamp(max=255).to(torch.uint8)
    names = ("input", "reconstruction", "difference")
    images = "".join(f'<img alt="{n}" src="{data_uri(x)}">' for n, x in zip(names, (a, b, difference), strict=True))
    small = " pixelated" if a.shape[-1] < 128 else ""
    key = escape(picture.key)
    return (
        f'<figure><div class="triple{small}">{images}</div>'
        f'<figcaption><span title="{key}">&lrm;{key}</span><b>{picture.psnr:.2f}&nbsp;dB</b></figcaption></figure>'
    )


def data_uri(pixels: Tensor) -> str:
    """uint8 [3, H, W] as a lossless PNG inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def distributions(results: Mapping[str, Any]) -> str:
    charts = []
    if "psnr" in results:
        psnr = results["psnr"]
        bars = psnr["histogram"]
        marks = [(psnr["mean"], f"mean {psnr['mean']:.2f}")]
        chart = histogram_chart(bars["counts"], bars["low"], bars["high"], x_label="PSNR, dB", marks=marks)
        caption = f"<b>PSNR per image</b>, from {psnr['min']:.2f} to {psnr['max']:.2f} dB"
        charts.append(f"<figure><figcaption>{caption}</figcaption>{chart}</figure>")
    for name, book in list(results.get("codebooks", {}).items())[:8]:
        uniform = book["tokens"] / book["entries"]
        chart = rank_chart(
            [(name, book["sorted_counts"])], uniform=uniform, x_label="entries, most used first", y_label="times used"
        )
        caption = (
            f"<b>Code use, {escape(name)}</b>: {book['used']:,} of {book['entries']:,} entries by "
            f"{book['tokens']:,} tokens, {book['dead']:,} dead, perplexity {book['perplexity']:,.0f}"
        )
        charts.append(f"<figure><figcaption>{caption}</figcaption>{chart}</figure>")
    return f'<section><h2>Distributions</h2><div class="charts">{"".join(charts)}</div></section>' if charts else ""


def training_curves(curves: Mapping[str, Sequence]) -> str:
    if not curves:
        return ""
    figures = "".join(
        f"<figure><figcaption><b>{escape(name.replace('_', ' '))}</b></figcaption>"
        f"{curve_chart(series, x_label='updates')}</figure>"
        for name, series in curves.items()
    )
    key = '<p class="key"><span><i class="k0"></i>training</span><span><i class="k1"></i>validation</span></p>'
    return f'<section><h2>The training run</h2>{key}<div class="curves">{figures}</div></section>'


def fact_lists(results: Mapping[str, Any]) -> str:
    lists = "".join(
        f"<div><h3>{escape(title)}</h3><dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries)
        + "</dl></div>"
        for title, entries in facts(results).items()
    )
    return f'<section><h2>What was measured</h2><div class="facts">{lists}</div></section>'


def skipped_list(results: Mapping[str, Any]) -> str:
    if not results["skipped"]:
        return ""
    shown = results["skipped_images"][:50]
    more = (
        f"<li>and {results['skipped'] - len(shown):,} more, in metrics.json</li>"
        if results["skipped"] > len(shown)
        else ""
    )
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in shown)
    return f"<section><h2>Skipped images ({results['skipped']:,})</h2><ul>{items}{more}</ul></section>"
