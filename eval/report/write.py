"""Writing of report.md and report.html from the content of metrics.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..lengths.curve import GrowingPicture
from ..results import write_text
from .gallery import Picture
from .html import html_report
from .markdown import markdown_report


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
