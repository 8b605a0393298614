"""report.md: the numbers of report.html as Markdown."""

from collections.abc import Mapping
from typing import Any

from ..lengths.table import markdown_curve
from .rows import data_name, facts, metric_rows, model_title


def markdown_report(results: Mapping[str, Any]) -> str:
    model, label, n = results["model"], results["protocol"]["label"], results["num_images"]
    lines = [f"# {model_title(model)}", ""]
    lines += [f"Protocol `{label}`, {n:,} images of {data_name(results['data'])}.", ""]
    if results["random_weights"]:
        lines += [f"> **Random weights**: {', '.join(results['random_weights'])}. Marked numbers mean nothing.", ""]
    lines += ["| | metric | value | better | images | protocol | |", "|---|---|--:|---|--:|---|---|"]
    for row in metric_rows(results):
        mark = " **[random weights]**" if row.random else ""
        cells = (row.group, _cell(row.name) + mark, row.value, row.better, f"{n:,}", f"`{label}`", _cell(row.note))
        lines.append(f"| {' | '.join(cells)} |")
    if results.get("curve"):
        lines += markdown_curve(results)
    if results["not_computed"]:
        lines += ["", "## Not computed", "", "| metric | why, and what would compute it |", "|---|---|"]
        lines += [f"| {name} | {_cell(reason)} |" for name, reason in results["not_computed"].items()]
    if results["warnings"]:
        lines += ["", "## Read with care", "", *(f"- {w}" for w in results["warnings"])]
    for title, entries in facts(results).items():
        lines += ["", f"## {title}", "", *(f"- {name}: {value}" for name, value in entries)]
    if results["skipped"]:
        lines += ["", f"## Skipped images ({results['skipped']:,})", ""]
        lines += [f"- {line}" for line in results["skipped_images"][:50]]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
