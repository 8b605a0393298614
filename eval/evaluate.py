"""Evaluation of a tokenizer under a protocol: one pass, then metrics.json, report.md and report.html."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.distributed import rank
from ..common.errors import UserError
from ..common.provenance import model_facts as facts_of_module
from ..common.provenance import provenance
from .metrics.chosen import ChosenMetrics
from .one_pass import OnePass
from .probes.measure import MeaningData, measure_meaning
from .protocol import Protocol
from .reconstruction import evaluating
from .results import add_meaning, check_required, check_writable, collect, require_present, write


def evaluate(
    tokenizer: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    *,
    protocol: Protocol,
    out_dir: Path,
    data_facts: Mapping[str, Any],
    run_dir: Path | None = None,
    device: torch.device | str | None = None,
    model_facts: Mapping[str, Any] | None = None,
    require: Sequence[str] = (),
    progress: bool = True,
    curve_images: int | None = 64,
    meaning: MeaningData | None = None,
) -> dict[str, Any]:
    """Returns what it wrote to `out_dir`/metrics.json.

    data_facts: what ImageData.describe() says; `evaluated` (val, the default, or all) tells which images these are.
    batches: dicts with `image` (uint8, or floats in [-1, 1]) and `key`; re-iterable, because the median images are
    read again. Under torch.distributed each process gives its own share, unpadded; the results are of all.
    meaning: what the probes read; without it there are none.
    curve_images: of a tokenizer of variable length, so many images (None: all, 0: none), evenly spread, are measured at
    1, 2, 4 ... all tokens too, and by JPEG, WebP and AVIF at equal bytes.
    require: metrics whose absence is an error, raised after the report is written.
    """
    assert not isinstance(batches, Iterator), "give a loader or a list: the median images are read a second time"
    check_required(require, protocol)
    device = torch.device(device) if device is not None else next(tokenizer.parameters()).device
    metrics = ChosenMetrics(protocol, device=device)
    first, out_dir = rank() == 0, Path(out_dir)
    if first:
        check_writable(out_dir)
        print("\n".join([f"protocol {protocol.label}", *metrics.lines]), flush=True)

    seen = OnePass(tokenizer, batches, metrics=metrics, curve_images=curve_images)
    with torch.inference_mode(), evaluating(tokenizer, device):
        seen.run(progress=progress and first)
        seen.join()
        if seen.shapes is None:
            name, count = data_facts.get("name"), len(seen.skipped)
            raise UserError(f"data={name}: no readable image to evaluate ({count} skipped)")
        results = collect(seen, data_facts=data_facts)
    if meaning is not None and protocol.wanted_probes:
        with evaluating(tokenizer, device):
            found = measure_meaning(tokenizer, meaning, probes=protocol.wanted_probes, device=device)
        add_meaning(results, found, protocol)
    results |= {
        "model": facts_of_module(tokenizer) | dict(model_facts or {}),
        "data": dict(data_facts),
        "skipped": len(seen.skipped),
        "skipped_images": seen.skipped[:1000],
        "provenance": provenance(device),
        "seconds": seen.seconds,
        "images_per_second": results["num_images"] / seen.seconds,
    }
    if first:
        write(results, seen, out_dir=out_dir, run_dir=run_dir)
    require_present(require, results, metrics, out_dir=out_dir)
    return results
