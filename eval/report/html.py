"""report.html: one file that opens anywhere, offline, without a script."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from ..lengths.curve import GrowingPicture
from ..lengths.page import curve_context
from .charts import curve_chart, histogram_chart, rank_chart
from .gallery import Picture
from .rows import data_name, facts, metric_rows, model_title
from .training_curves import read_curves

GAIN = 4  # of the shown difference


def html_report(
    results: Mapping[str, Any],
    pictures: Mapping[str, Sequence[Picture]],
    *,
    run_dir: Path | None,
    growing: Sequence[GrowingPicture] = (),
) -> str:
    pages = Environment(
        loader=FunctionLoader(_file), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    pages.filters["thousands"] = lambda number: f"{number:,.0f}"
    grouped = groupby(metric_rows(results), key=lambda row: row.group)
    runs = read_curves(Path(run_dir) / "metrics.csv") if run_dir else {}
    return pages.get_template("report.html").render(
        results={"psnr": None, "codebooks": None} | dict(results),
        model={"experiment": None} | dict(results["model"]),
        made=results["provenance"],
        title=model_title(results["model"]),
        data=data_name(results["data"]),
        label=results["protocol"]["label"],
        count=f"{results['num_images']:,}",
        style=Markup(_file("report.css")),
        groups=[(name, list(rows)) for name, rows in grouped],
        curve=curve_context(results, growing, data_uri=data_uri) if results.get("curve") else None,
        gain=GAIN,
        shelves={name: [_triple(picture) for picture in shelf] for name, shelf in pictures.items()},
        psnr_chart=_psnr_chart(results["psnr"]) if "psnr" in results else None,
        book_charts=[(n, b, _code_chart(n, b)) for n, b in list(results.get("codebooks", {}).items())[:8]],
        training=[(name, Markup(curve_chart(series, x_label="updates"))) for name, series in runs.items()],
        facts=facts(results),
    )


def _file(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _triple(picture: Picture) -> dict[str, Any]:
    a, b = picture.reference, picture.reconstruction
    difference = ((a.float() - b.float()).abs() * GAIN).clamp(max=255).to(torch.uint8)
    shown = {"input": a, "reconstruction": b, "difference": difference}
    return {
        "key": picture.key,
        "psnr": f"{picture.psnr:.2f}",
        "small": a.shape[-1] < 128,
        "images": [(name, data_uri(pixels)) for name, pixels in shown.items()],
    }


def data_uri(pixels: Tensor) -> str:
    """uint8 [3, H, W] as a lossless PNG inside the page."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _psnr_chart(psnr: Mapping[str, Any]) -> Markup:
    bars, marks = psnr["histogram"], [(psnr["mean"], f"mean {psnr['mean']:.2f}")]
    return Markup(histogram_chart(bars["counts"], bars["low"], bars["high"], x_label="PSNR, dB", marks=marks))


def _code_chart(name: str, book: Mapping[str, Any]) -> Markup:
    labels = {"x_label": "entries, most used first", "y_label": "times used"}
    return Markup(rank_chart([(name, book["sorted_counts"])], uniform=book["tokens"] / book["entries"], **labels))
