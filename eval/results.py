"""From sums to metrics.json: names that cannot be mistaken, a reason for everything absent, and warnings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import write_text
from .meters import Meters
from .networks import Networks
from .protocol import Protocol
from .rate import rate


def collect(
    meters: Meters,
    *,
    protocol: Protocol,
    networks: Networks,
    data_facts: Mapping[str, Any],
    image_size: tuple[int, int],
) -> dict[str, Any]:
    """The numbers, without model facts and provenance. A metric that could not be computed is an absent key."""
    n, wanted = meters.images, protocol.metrics
    results: dict[str, Any] = {
        "protocol": protocol.as_dict(),
        "num_images": n,
        "image_size": list(image_size),
        "random_weights": sorted(networks.random),
        "not_computed": dict(networks.not_computed),
        "warnings": [],
    }
    psnr = meters.psnr.result()
    if "psnr" in wanted:
        results |= psnr
        if psnr["psnr"]["capped"]:
            count = psnr["psnr"]["capped"]
            results["warnings"].append(f"{count} identical images count as {protocol.psnr_cap:g} dB in the PSNR mean")
    if "ssim" in wanted:
        results |= meters.ssim.result()
    if "l1" in wanted:
        results |= meters.l1.result()
    results |= {key: meter.mean() for key, meter in meters.lpips.items()}
    _add_features(results, meters, networks, data_facts, protocol)
    _add_codebook(results, meters, wanted, image_size)
    if protocol.ssim_data_range != 255:
        results["warnings"].append(
            "this SSIM's data range is not that of the pixels: inflated, compare it with nothing else"
        )
    if not protocol.is_own_crop(data_facts):
        crop = data_facts.get("val_crop") or "an unnamed crop"
        results["warnings"].append(f"the images were prepared by {crop}, not by the protocol's {protocol.crop}")
    return results


def _add_features(
    results: dict, meters: Meters, networks: Networks, data_facts: Mapping[str, Any], protocol: Protocol
) -> None:
    extractor, n = networks.extractor, meters.images
    if extractor is None:
        return
    plain = extractor.name == "inception-2015"
    if meters.fid is not None:
        distance = meters.frechet()
        if distance is None:
            results["not_computed"]["rfid"] = f"a covariance needs two images; there is {n}"
        else:
            label = "rFID" if protocol.allows_rfid_name(data_facts, n) else f"rFID@{n}"
            key = "rfid" if plain else f"fid[{extractor.name}]@{n}"
            results[key] = {
                "value": distance,
                "n": n,
                "extractor": extractor.name,
                "extractor_sha256": extractor.sha256,
                "label": label if plain else key,
            }
            if n < 5 * extractor.width:
                results["warnings"].append(
                    f"{results[key]['label']}: {n:,} images for {extractor.width:,} features; below "
                    f"{5 * extractor.width:,} the distance is biased upwards, and comparable only at the same count"
                )
    if meters.scores is not None:
        reference, reconstruction = (score.result() for score in meters.scores)
        key = "inception_score" if plain else f"inception_score[{extractor.name}]"
        results[key] = reconstruction | {"originals": reference, "extractor": extractor.name}


def _add_codebook(results: dict, meters: Meters, wanted: Sequence[str], image_size: tuple[int, int]) -> None:
    if "codebook" not in wanted:
        return
    if meters.codebook is None:
        results["not_computed"]["codebook"] = "a continuous bottleneck has no indices"
        return
    facts = meters.codebook.to_cpu().result()
    costs = rate(meters.codebook, pixels=image_size[0] * image_size[1], codebook=facts)
    results |= facts | {"bits_per_image": costs["bits_per_image"], "rate": costs}
    for name, book in facts["codebooks"].items():
        if not book["enough_tokens"]:
            results["warnings"].append(
                f"usage of {name}: {book['tokens']:,} tokens are fewer than 10 x {book['entries']:,} entries; uniform "
                f"use would show {book['uniform_ceiling']:.1%}, and this is "
                f"{book['usage_over_uniform_ceiling']:.1%} of that"
            )


def write_json(results: Mapping[str, Any], file: Path) -> None:
    """Whole or not at all."""
    write_text(file, json.dumps(results, indent=2, allow_nan=False) + "\n")


def check_writable(folder: Path) -> None:
    """Before hours of work: a report has about this size."""
    probe = folder / "metrics.json.probe"
    try:
        write_text(probe, " " * 500_000)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        probe.unlink(missing_ok=True)
