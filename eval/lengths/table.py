"""Curve over tokens as a table: the tokenizer's numbers, and each codec's where its files are that small."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics.base import base_of, is_random
from ..report.rows import metric_classes

SIZES = ("tokens", "bits", "bytes")


@dataclass(frozen=True)
class Column:
    """One number of every point, as its metric says that it is shown."""

    key: str
    name: str
    better: str
    decimals: int
    random: bool
    of_codecs: bool  # stands in a codec's cells too; the others are in the charts and in metrics.json

    def shown(self, value: float) -> str:
        return f"{value:.{self.decimals}f}"


def columns_of(results: Mapping[str, Any]) -> list[Column]:
    metrics = {base: metric for metric in metric_classes(results) for base in metric.quantities}
    columns = []
    for key in results["curve"]["points"][0]:
        if key in SIZES:
            continue
        metric = metrics[base_of(key)]
        shown = metric.quantities[base_of(key)]
        name = ", ".join(part for part in (metric.title_of(key), shown.unit) if part)
        pixels = metric.group == "Pixels"
        columns.append(Column(key, name, shown.better, shown.curve_decimals, is_random(key), pixels))
    return columns


def shown_bytes(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def size_names(curve: Mapping[str, Any]) -> list[str]:
    return ["tokens", "bytes"] if "bytes" in curve["points"][0] else ["tokens"]


def table_rows(curve: Mapping[str, Any], columns: Sequence[Column]) -> list[tuple[list[str], list[list[str] | str]]]:
    """Cells of each length: sizes and numbers of the tokenizer, and those of each codec."""
    rows = []
    for number, point in enumerate(curve["points"]):
        sizes = [f"{point['tokens']:,}", *([shown_bytes(point["bytes"])] if "bytes" in point else [])]
        own = [*sizes, *(column.shown(point[column.key]) for column in columns)]
        rows.append((own, [codec_cells(curve, name, number, columns) for name in curve["codecs"]]))
    return rows


def codec_cells(curve: Mapping[str, Any], codec: str, row: int, columns: Sequence[Column]) -> list[str] | str:
    """Numbers, or in words why there are none: a mean over the few images that fit would be of other images."""
    point = curve["codecs"][codec]["points"][row]
    if not point["fit"]:
        return "cannot be this small"
    if point["fit"] < curve["images"]:
        return f"{point['fit']} of {curve['images']} fit"
    return [column.shown(point[column.key]) for column in columns if column.of_codecs]


def caption(curve: Mapping[str, Any]) -> str:
    """How to read it, with the caveats that decide what it means."""
    text = f"The first 1, 2, 4 ... tokens of each of {curve['images']:,} images."
    if curve["codecs"]:
        text += (
            " Beside it, the same images by each codec at equal bytes: a length has tokens x bits / 8 of them (nominal,"
            " no entropy coder), and a codec its highest quality setting whose file, headers included, is no larger."
        )
    return text


def codec_lines(curve: Mapping[str, Any]) -> list[str]:
    """What each codec's smallest files are, and who made them."""
    lines = []
    for name, codec in curve["codecs"].items():
        least = codec["smallest"]
        quality = f", {least['psnr']:.2f} dB" if "psnr" in least else ""
        lines.append(
            f"{name}: smallest files {shown_bytes(least['bytes'])} bytes on average, of them "
            f"{shown_bytes(least['header_bytes'])} headers{quality}. {codec['encoder']}"
        )
    return lines + [f"{name}: left out, {why}" for name, why in curve["codecs_skipped"].items()]


def markdown_curve(results: Mapping[str, Any]) -> list[str]:
    """Lines of report.md."""
    curve, columns = results["curve"], columns_of(results)
    names = [column.name + (" **[random weights]**" if column.random else "") for column in columns]
    together = " / ".join(column.name for column in columns if column.of_codecs)
    heads = [*size_names(curve), *names, *(f"{name}: {together}" for name in curve["codecs"])]
    lines = ["", "## Quality against tokens", "", caption(curve), ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
    for own, of_codecs in table_rows(curve, columns):
        cells = [*own, *(found if isinstance(found, str) else " / ".join(found) for found in of_codecs)]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *(f"- {line}" for line in codec_lines(curve))]
