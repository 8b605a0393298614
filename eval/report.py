"""report.md and report.html from what metrics.json holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .gallery import Picture
from .length_curve import GrowingPicture
from .report_html import html_report
from .report_markdown import markdown_report
from .results import write_text


def write_report(
    results: Mapping[str, Any],
    pictures: Mapping[str, Sequence[Picture]],
    *,
    out_dir: Path,
    run_dir: Path | None = None,
    growing: Sequence[GrowingPicture] = (),
) -> Path:
    """run_dir: of the training run, whose metrics.csv gives the curves. growing: pictures at every length that a
    tokenizer of variable length was measured at. Returns the HTML file.
    """
    write_text(out_dir / "report.md", markdown_report(results))
    page = out_dir / "report.html"
    write_text(page, html_report(results, pictures, run_dir=run_dir, growing=growing))
    return page
