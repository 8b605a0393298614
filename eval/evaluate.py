"""One pass over images: reconstruct, measure, write metrics.json, report.md and report.html."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..common.errors import UserError, did_you_mean
from ..common.pixels import to_model_range, to_pixels
from ..common.provenance import model_facts as facts_of_module
from ..common.provenance import provenance
from ..common.types import Latents
from .lengths.curve import LengthCurve, falling, joined, own_share
from .meters import Meters
from .networks import LpipsFactory, resolve_networks
from .probes.alignment import Alignment
from .probes.measure import Meaning, MeaningData, measure_meaning
from .progress import ImageProgress, number_of_images
from .protocol import METRICS, PROBES, Protocol
from .report.gallery import Gallery, Picture, look_again
from .report.rows import metric_rows
from .report.write import write_report
from .results import check_writable, collect, write_json


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
    lpips_factory: LpipsFactory | None = None,
    meaning: MeaningData | None = None,
    alignment: Alignment | None = None,
) -> dict[str, Any]:
    """Returns what it wrote to `out_dir`/metrics.json.

    data_facts: what ImageData.describe() says; `evaluated` (val, the default, or all) tells which images these are.
    batches: dicts with `image` (uint8, or floats in [-1, 1]) and `key`; re-iterable, because the median pictures are
    looked up again. Under torch.distributed each process gives its own share, unpadded; the sums are joined.
    meaning, alignment: what probes of meaning read; without the first there are none.
    curve_images: of a tokenizer of variable length, so many images (None: all, 0: none), evenly spread, are measured at
    1, 2, 4 ... all tokens too, and by JPEG, WebP and AVIF at equal bytes.
    require: metrics whose absence is an error, raised after the report is written.
    """
    check_required(require, protocol)
    assert not isinstance(batches, Iterator), "give a loader or a list: the median pictures are read a second time"
    device = torch.device(device) if device is not None else next(tokenizer.parameters()).device
    networks = resolve_networks(protocol, device=device, lpips_factory=lpips_factory)
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    if rank == 0:
        check_writable(Path(out_dir))
        print("\n".join([f"protocol {protocol.label}", *networks.lines]), flush=True)

    was_training = tokenizer.training
    tokenizer.to(device).eval()
    meters, size = None, tuple(tokenizer.image_size)
    dropout, curve = getattr(tokenizer, "token_dropout", None), None
    gallery, skipped = Gallery(process=rank), []
    started = time.perf_counter()

    def reconstruct(batch: Mapping[str, Any], rows: Sequence[int] | slice) -> tuple[Tensor, Tensor, Tensor, Any]:
        given = batch["image"][rows].to(device, non_blocking=True)
        reference = given if given.dtype == torch.uint8 else to_pixels(given, protocol.rounding)
        quantized = tokenizer.quantize(to_model_range(reference) if given.dtype == torch.uint8 else given)
        unrounded = _decoded(tokenizer, batch, quantized.codes, rows)
        return reference, to_pixels(unrounded, protocol.rounding), unrounded, quantized

    with torch.inference_mode(), exact_float32(device), ImageProgress(batches, show=progress and rank == 0) as bar:
        for number, batch in enumerate(batches):
            skipped += batch.get("skipped", ())
            keys = list(batch["key"])
            reference, pixels, unrounded, quantized = reconstruct(batch, slice(None))
            if meters is None:
                size = (reference.shape[-2], reference.shape[-1])
                networks.leave_out_too_small(size)
                layout = tokenizer.index_layout(size) if quantized.indices else ()
                meters = Meters(protocol=protocol, networks=networks, layout=layout)
                if dropout is not None:
                    available = number_of_images(batches)
                    curve = LengthCurve(
                        protocol=protocol,
                        networks=networks,
                        layout=layout,
                        total=quantized.codes["main"].x_BND.shape[1],
                        wanted=own_share(curve_images, available, rank, world),
                        available=available,
                    )
            values = meters.update(
                reference=reference,
                reconstruction=pixels,
                unrounded=unrounded,
                indices=quantized.indices,
                keys=keys,
                networks=networks,
            )
            gallery.update(values, keys, reference, pixels, number)
            if curve is not None:
                curve.update(
                    dropout=dropout,
                    quantized=quantized,
                    reference=reference,
                    keys=keys,
                    decode=partial(_decoded, tokenizer, batch),
                    networks=networks,
                )
            bar.advance(len(keys))
        seconds = time.perf_counter() - started - (curve.seconds if curve is not None else 0.0)
        curve = joined(_gathered_objects(curve.to_cpu() if curve is not None and world > 1 else curve, world))
        meters, gallery, skipped = _join_processes(meters, gallery, skipped, world)
        if meters is None:
            raise UserError(f"data={data_facts.get('name')}: no readable image to evaluate ({len(skipped)} skipped)")
        own = [row for row in gallery.median() if row[2] == rank]
        median = look_again(batches, own, reconstruct=lambda batch, rows: reconstruct(batch, rows)[:2])
    about_meaning = Meaning()
    if meaning is not None and protocol.wanted_probes:
        with exact_float32(device):
            about_meaning = measure_meaning(
                tokenizer, meaning, probes=protocol.wanted_probes, device=device, alignment=alignment
            )
    tokenizer.train(was_training)
    median = _gathered(median, world)

    results = collect(meters, protocol=protocol, networks=networks, data_facts=data_facts, image_size=size)
    add_meaning(results, about_meaning, protocol)
    results |= {
        "model": facts_of_module(tokenizer) | dict(model_facts or {}),
        "data": dict(data_facts),
        "skipped": len(skipped),
        "skipped_images": skipped[:1000],
        "provenance": provenance(device),
        "seconds": seconds,
        "images_per_second": meters.images / seconds,
    }
    if curve is not None:
        results["curve"] = curve.result(networks)
        results["warnings"] += falling(results["curve"])
    if rank == 0:
        pictures = {"best": gallery.best, "median": median, "worst": gallery.worst}
        try:
            write_json(results, Path(out_dir) / "metrics.json")
            growing = curve.pictures if curve is not None else ()
            write_report(results, pictures, out_dir=Path(out_dir), run_dir=run_dir, growing=growing)
        except OSError:  # the disk filled up meanwhile: the numbers survive on the screen
            print("\n".join(f"{row.name}: {row.value}" for row in metric_rows(results)), flush=True)
            raise
    for name in require:
        if not is_present(results, name):
            reason = results["not_computed"].get(name, "its network has random weights")
            raise UserError(f"require={name}: not computed: {reason}; the rest is in {Path(out_dir) / 'report.html'}")
    return results


def check_required(names: Sequence[str], protocol: Protocol) -> None:
    for name in names:
        if name not in (*protocol.metrics, *protocol.wanted_probes):
            known = did_you_mean(name, (*METRICS, *PROBES))
            raise UserError(f"require={name}: not in protocol.metrics or protocol.probes; {known}")


def is_present(results: Mapping[str, Any], metric: str) -> bool:
    if metric in PROBES:
        return any(number["probe"] == metric for number in results.get("meaning", ()))
    return ("codebooks" if metric == "codebook" else metric) in results


def add_meaning(results: dict[str, Any], found: Meaning, protocol: Protocol) -> None:
    """Why a probe is absent is said only where it was asked for by name."""
    if found.numbers:
        results["meaning"] = found.numbers
    results["random_weights"] += [n["name"] for n in found.numbers if n["random_weights"]]
    if protocol.probes != "auto":
        results["not_computed"] |= found.not_computed


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """TF32 and an autocast around the caller would change features, and with them every distance."""
    matmul, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.callback(torch.set_float32_matmul_precision, matmul)
        torch.set_float32_matmul_precision("highest")
        if device.type == "cuda":
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", convolutions)
            torch.backends.cudnn.allow_tf32 = False
        yield


def _decoded(tokenizer: nn.Module, batch: Mapping[str, Any], codes: Latents, rows: Sequence[int] | slice) -> Tensor:
    return tokenizer.decode(codes, **_conditions(tokenizer, batch, rows)).float().clamp_(-1, 1)


def _conditions(tokenizer: nn.Module, batch: Mapping[str, Any], rows: Sequence[int] | slice) -> dict[str, Any]:
    """What a decoder that reads captions is given besides codes."""
    if getattr(tokenizer, "conditioner", None) is None:
        return {}
    captions = batch.get("caption")
    if captions is not None:
        captions = captions[rows] if isinstance(rows, slice) else [captions[row] for row in rows]
    return {"conditions": tokenizer.conditions_of({"caption": captions})}


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _join_processes(
    meters: Meters | None, gallery: Gallery, skipped: list[str], world: int
) -> tuple[Meters | None, Gallery, list[str]]:
    if world == 1:
        return meters, gallery, skipped
    shards: list[Any] = [None] * world
    dist.all_gather_object(shards, (meters.to_cpu() if meters else None, gallery, skipped))
    joined, all_skipped, whole = None, [], Gallery(process=dist.get_rank())
    for shard, shard_gallery, shard_skipped in shards:
        whole.merge(shard_gallery)
        all_skipped += shard_skipped
        if shard is not None and joined is None:
            joined = shard
        elif shard is not None:
            joined.merge(shard)
    return joined, whole, all_skipped


def _gathered_objects(own: Any, world: int) -> list[Any]:
    if world == 1:
        return [own]
    shards: list[Any] = [None] * world
    dist.all_gather_object(shards, own)
    return shards


def _gathered(pictures: list[Picture], world: int) -> list[Picture]:
    return sorted((p for shard in _gathered_objects(pictures, world) for p in shard), key=lambda p: (p.psnr, p.key))
