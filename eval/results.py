"""Content of metrics.json from a pass: unambiguous names, a reason for everything absent, and warnings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.errors import UserError, did_you_mean
from ..common.files import write_text
from .lengths.curve import falling
from .metrics.base import Measured
from .metrics.chosen import ChosenMetrics, is_present
from .metrics.registry import names_in
from .one_pass import OnePass
from .protocol import PROBES, Protocol
from .report.html import html_report
from .report.markdown import markdown_report
from .report.rows import metric_rows

if TYPE_CHECKING:
    from .probes.measure import Meaning


def collect(seen: OnePass, *, data_facts: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers, without model facts and provenance; a metric that could not be computed is an absent key.

    Every process must call it: the metrics' states are joined here.
    """
    metrics, protocol, count = seen.metrics, seen.metrics.protocol, len(seen.gallery.seen)
    assert seen.shapes is not None, "a pass without images has no results"
    size, whole = seen.shapes.image_size, protocol.allows_rfid_name(data_facts, count)
    found, warnings = metrics.results(Measured(image_size=size, whole_set=whole))
    if not protocol.is_own_crop(data_facts):
        crop = data_facts.get("val_crop") or "an unnamed crop"
        warnings.append(f"the images were prepared by {crop}, not by the protocol's {protocol.crop}")
    results: dict[str, Any] = {
        "protocol": protocol.as_dict(),
        "num_images": count,
        "image_size": list(size),
        "random_weights": metrics.random,
        "not_computed": dict(metrics.not_computed),
        "warnings": warnings,
    }
    results |= found
    curve = seen.curve.result() if seen.curve is not None else None
    if curve is not None:
        results["curve"] = curve
        warnings += falling(curve)
    return results


def add_meaning(results: dict[str, Any], found: "Meaning", protocol: Protocol) -> None:
    """Why a probe is absent is said only where it was asked for by name."""
    if found.numbers:
        results["meaning"] = found.numbers
    results["random_weights"] += [n["name"] for n in found.numbers if n["random_weights"]]
    if protocol.probes != "auto":
        results["not_computed"] |= found.not_computed


def check_required(names: Sequence[str], protocol: Protocol) -> None:
    for name in names:
        if name not in (*protocol.metrics, *protocol.wanted_probes):
            known = did_you_mean(name, (*names_in("metric"), *PROBES))
            raise UserError(f"require={name}: not in protocol.metrics or protocol.probes; {known}")


def require_present(names: Sequence[str], results: Mapping[str, Any], metrics: ChosenMetrics, *, out_dir: Path) -> None:
    for name in names:
        if name in PROBES:
            there = any(number["probe"] == name for number in results.get("meaning", ()))
        else:
            there = is_present(results, metrics.asked[name])
        if not there:
            reason = results["not_computed"].get(name, "its network has random weights")
            raise UserError(f"require={name}: not computed: {reason}; the rest is in {out_dir / 'report.html'}")


def write(results: Mapping[str, Any], seen: OnePass, *, out_dir: Path, run_dir: Path | None) -> None:
    """metrics.json and both reports. run_dir: of the training run, whose metrics.csv gives the curves."""
    growing = seen.curve.pictures if seen.curve is not None else ()  # at every length
    try:
        write_json(results, out_dir / "metrics.json")
        write_text(out_dir / "report.md", markdown_report(results))
        write_text(out_dir / "report.html", html_report(results, seen.pictures, run_dir=run_dir, growing=growing))
    except OSError:  # the disk filled up meanwhile: the numbers survive on the screen
        print("\n".join(f"{row.name}: {row.value}" for row in metric_rows(results)), flush=True)
        raise


def write_json(results: Mapping[str, Any], file: Path) -> None:
    """Whole or not at all."""
    write_text(file, json.dumps(results, indent=2, allow_nan=False) + "\n")


def check_writable(folder: Path) -> None:
    """Before hours of work: a report has about this size."""
    probe = folder / "metrics.json.probe"
    try:
        write_text(probe, " " * 500_000)
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
