"""The curve over tokens as a table: the tokenizer's numbers, and each codec's where its files are that small."""

from collections.abc import Mapping
from typing import Any

SIZES = ("tokens", "bits", "bytes")
FIT_KEYS = ("budget_bytes", "fit", "bytes", "quality", "header_bytes")
PIXEL_METRICS = ("psnr", "ssim", "l1")  # a codec's cells; the others are in the chart and in metrics.json
NAMES = {"psnr": "PSNR, dB", "ssim": "SSIM", "l1": "L1", "lpips_vgg": "LPIPS vgg", "lpips_alex": "LPIPS alex"}
LOWER_IS_BETTER = ("l1", "lpips", "rFID", "fid")


def metrics_of(curve: Mapping[str, Any]) -> list[str]:
    return [key for key in curve["points"][0] if key not in SIZES]


def metric_name(key: str) -> str:
    base, bracket, mark = key.partition("[")
    return NAMES.get(base, base) + (f" [{mark}" if bracket else "")


def is_random(key: str) -> bool:
    return "[rand" in key


def shown_number(key: str, value: float) -> str:
    return f"{value:.2f}" if key == "psnr" or "fid" in key.lower() else f"{value:.4f}"


def shown_bytes(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def codec_metrics(curve: Mapping[str, Any]) -> list[str]:
    return [key for key in metrics_of(curve) if key in PIXEL_METRICS]


def codec_cells(curve: Mapping[str, Any], codec: str, row: int) -> list[str] | str:
    """Numbers, or in words why there are none: a mean over the few pictures that fit would be of other pictures."""
    point = curve["codecs"][codec]["points"][row]
    if not point["fit"]:
        return "cannot be this small"
    if point["fit"] < curve["images"]:
        return f"{point['fit']} of {curve['images']} fit"
    return [shown_number(key, point[key]) for key in codec_metrics(curve)]


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


def markdown_curve(curve: Mapping[str, Any]) -> list[str]:
    """Lines of report.md."""
    metrics, codecs = metrics_of(curve), list(curve["codecs"])
    sized = "bytes" in curve["points"][0]
    names = [metric_name(key) + (" **[random weights]**" if is_random(key) else "") for key in metrics]
    together = " / ".join(metric_name(key) for key in codec_metrics(curve))
    heads = ["tokens", *(["bytes"] if sized else []), *names, *(f"{name}: {together}" for name in codecs)]
    lines = ["", "## Quality against tokens", "", caption(curve), ""]
    lines += ["| " + " | ".join(heads) + " |", "|" + "--:|" * len(heads)]
    for row, point in enumerate(curve["points"]):
        cells = [f"{point['tokens']:,}", *([shown_bytes(point["bytes"])] if sized else [])]
        cells += [shown_number(key, point[key]) for key in metrics]
        for name in codecs:
            found = codec_cells(curve, name, row)
            cells.append(found if isinstance(found, str) else " / ".join(found))
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, "", *(f"- {line}" for line in codec_lines(curve))]
