"""The metric table of both reports: every number with its sample count, and marked where a weight was random."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..protocol import Protocol


@dataclass(frozen=True)
class Row:
    group: str
    name: str
    value: str
    better: str = ""  # "higher" | "lower" | ""
    note: str = ""
    random: bool = False


def metric_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    yield from _pixel_rows(results)
    yield from _network_rows(results)
    yield from _code_rows(results)
    yield from _meaning_rows(results)


def _pixel_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    if "psnr" in results:
        psnr = results["psnr"]
        spread = f"deciles 1 and 9: {psnr['deciles'][0]:.2f} and {psnr['deciles'][-1]:.2f} dB"
        if psnr["capped"]:
            spread += f"; {psnr['capped']} identical images capped"
        yield Row("Pixels", "PSNR", f"{psnr['mean']:.3f} dB", "higher", spread)
        floor = f"{results['psnr_mean_colour']:.3f} dB"
        yield Row(
            "Pixels", "PSNR of the mean colour", floor, "", "each image replaced by its own mean colour: the floor"
        )
    if "ssim" in results:
        yield Row("Pixels", "SSIM", f"{results['ssim']['mean']:.4f}", "higher")
    if "l1" in results:
        yield Row("Pixels", "L1", f"{results['l1']:.5f}", "lower", "of the full range")


def _network_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    for key, value in results.items():
        random = "[random" in key
        if key.startswith("lpips_"):
            name = key.replace("lpips_", "LPIPS ").replace("[", " [")
            yield Row("Perceptual", name, f"{value:.4f}", "lower", random=random)
        elif key == "rfid" or key.startswith("fid["):
            random = random or "[randconv" in key
            note = f"reference: the same {value['n']:,} images"
            yield Row("Perceptual", value["label"], f"{value['value']:.4f}", "lower", note, random=random)
        elif key.startswith("inception_score"):
            note = (
                f"originals {value['originals']['value']:.3f}; {value['splits']} shuffled splits "
                f"{value['splits_mean']:.3f} ± {value['splits_std']:.3f}"
            )
            name = key.replace("inception_score", "Inception Score").replace("Score[", "Score [")
            yield Row("Perceptual", name, f"{value['value']:.3f}", "higher", note, random=random)


def _code_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    if "codebooks" not in results:
        return
    books, rate = results["codebooks"], results["rate"]
    for name, book in books.items():
        which = "" if len(books) == 1 else f" {name}"
        used = f"{book['used']:,} of {book['entries']:,} entries, {book['dead']:,} dead"
        ceiling = f"{book['usage_over_uniform_ceiling']:.1%} of what {book['tokens']:,} uniform tokens would use"
        yield Row("Codes", f"Usage{which}", f"{book['usage']:.2%}", "higher", f"{used}; {ceiling}")
        top = f"the most used 1% of entries hold {book['top_1_percent_mass']:.1%} of the tokens"
        yield Row("Codes", f"Perplexity{which}", f"{book['perplexity']:,.1f}", "higher", top)
        full = f"{math.log2(book['entries']):.2f} bits if all entries were used equally"
        yield Row("Codes", f"Entropy{which}", f"{book['entropy_bits']:.3f} bits", "", full)
    yield Row("Rate", "Tokens", f"{rate['tokens']:,.6g}", "", f"{rate['bits_per_token']:.4g} bits each")
    yield Row(
        "Rate",
        "Nominal bits",
        f"{rate['bits_per_image']:,.6g}",
        "lower",
        f"{rate['bits_per_pixel']:.4f} bits per pixel",
    )
    coded = f"{rate['entropy_coded_bits_per_pixel']:.4f} bits per pixel, ideal coder, pooled statistics"
    yield Row("Rate", "Entropy-coded bits", f"{rate['entropy_coded_bits']:,.1f}", "lower", coded)


def _meaning_rows(results: Mapping[str, Any]) -> Iterator[Row]:
    for number in results.get("meaning", ()):
        path = {True: "quantized", False: "before quantization", None: "inner features"}[number["through_quantizer"]]
        share = number["probe"] != "teacher_cosine"
        value = f"{number['value']:.1%}" if share else f"{number['value']:.4f}"
        said = [f"{number['n']:,} held out"]
        said += [f"fitted on {number['fitted_on']:,}"] if number["fitted_on"] else []
        said += [f"chance {number['chance']:.1%}"] if number["chance"] is not None else []
        name = f"{number['name']} ({number['stream']}, {path})"
        note = f"{', '.join(said)}; {number['protocol']}"
        yield Row("Meaning", name, value, "higher", note, random=number["random_weights"])


def data_name(data: Mapping[str, Any]) -> str:
    """A plain folder by its own name, a data set by the set's."""
    name = str(data.get("name", "unnamed data"))
    return (
        f"{name} {str(data['root']).rstrip('/').rpartition('/')[2]}" if name == "folder" and data.get("root") else name
    )


def model_title(model: Mapping[str, Any]) -> str:
    """What the report is of: the folder's name, with the experiment that its export knows."""
    name, experiment = model.get("name"), model.get("experiment")
    if not experiment or (name and str(experiment) in str(name).split("/")):
        return str(name or model["class"])
    return f"{experiment} ({name})" if name else str(experiment)


def facts(results: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Named lists of (what, value): model, data, protocol, provenance."""
    model, made = results["model"], results["provenance"]
    codebook = model["codebook_size"] or ("none, a continuous bottleneck",)
    model_rows = [
        ("size", " x ".join(str(s) for s in model["image_size"]) + " pixels"),
        ("parameters", f"{model['parameters']:,}"),
        *(
            (name, f"{model['parts'][name]}, {count:,} parameters")
            for name, count in model["parameters_by_part"].items()
        ),
        ("tokens per image", f"{model['tokens']:,}"),
        ("codebook", f"{codebook:,} entries" if isinstance(codebook, int) else " x ".join(map(str, codebook))),
        ("nominal bits per image", f"{model['bits_per_image']:,.6g}"),
    ]
    model_rows += [(f"decoder: {name}", _plain(value)) for name, value in model.get("decoder_facts", {}).items()]
    known = {
        "class",
        "decoder_facts",
        "parameters",
        "parameters_by_part",
        "parts",
        "image_size",
        "tokens",
        "codebook_size",
        "bits_per_image",
        "weights_sha256",
    }
    model_rows += [(k, _plain(v)) for k, v in model.items() if k not in known and v is not None]
    versions = [(name, v) for name, v in made["packages"].items() if v]
    made_rows = [
        ("date", made["date"]),
        ("imtok", made["imtok"] + (f" (git {made['git']})" if made["git"] else "")),
        ("device", f"{made['device']}, {made['precision']}"),
        ("speed", f"{results['images_per_second']:.1f} images/s, {results['seconds']:.1f} s"),
        ("python", made["python"]),
        *versions,
    ]
    data_rows = [(k, _plain(v)) for k, v in results["data"].items()]
    data_rows.append(
        ("images evaluated", f"{results['num_images']:,} at {' x '.join(map(str, results['image_size']))}")
    )
    fields = {k: v for k, v in results["protocol"].items() if k not in ("label", "hash")}
    return {
        "Model": model_rows,
        "Data": data_rows,
        f"Protocol {results['protocol']['label']}": Protocol(**fields).describe(),
        "Made with": made_rows,
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
