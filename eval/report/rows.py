"""Table of both reports: every number with its sample count, and marked where a weight was random."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..metrics.base import Metric, Row
from ..metrics.registry import metric_class
from ..protocol import Protocol

ORDER = {"Pixels": 0, "Perceptual": 1, "Codes": 3, "Rate": 4, "Meaning": 5}  # groups of others stand between


def metric_rows(results: Mapping[str, Any]) -> list[Row]:
    rows = [row for metric in metric_classes(results) for row in metric.rows(results)]
    return sorted([*rows, *_meaning_rows(results)], key=lambda row: ORDER.get(row.group, 2))


def metric_classes(results: Mapping[str, Any]) -> list[type[Metric]]:
    """Of the protocol, each once: one class may stand behind several names."""
    protocol = Protocol.of_results(results)
    return list(dict.fromkeys(metric_class(name, protocol) for name in protocol.metrics))


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
    return f"{name} {Path(data['root']).name}" if name == "folder" and data.get("root") else name


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
        *((name, f"{model['parts'][name]}, {n:,} parameters") for name, n in model["parameters_by_part"].items()),
        ("tokens per image", f"{model['tokens']:,}"),
        ("codebook", f"{codebook:,} entries" if isinstance(codebook, int) else " x ".join(map(str, codebook))),
        ("nominal bits per image", f"{model['bits_per_image']:,.6g}"),
    ]
    model_rows += [(f"decoder: {name}", _plain(value)) for name, value in model.get("decoder_facts", {}).items()]
    known = {"class", "decoder_facts", "parameters", "parameters_by_part", "parts", "image_size", "tokens"}
    known |= {"codebook_size", "bits_per_image", "weights_sha256"}
    model_rows += [(k, _plain(v)) for k, v in model.items() if k not in known and v is not None]
    made_rows = [
        ("date", made["date"]),
        ("imtok", made["imtok"] + (f" (git {made['git']})" if made["git"] else "")),
        ("device", f"{made['device']}, {made['precision']}"),
        ("speed", f"{results['images_per_second']:.1f} images/s, {results['seconds']:.1f} s"),
        ("python", made["python"]),
        *((name, version) for name, version in made["packages"].items() if version),
    ]
    evaluated = f"{results['num_images']:,} at {' x '.join(map(str, results['image_size']))}"
    data_rows = [*((k, _plain(v)) for k, v in results["data"].items()), ("images evaluated", evaluated)]
    return {
        "Model": model_rows,
        "Data": data_rows,
        f"Protocol {results['protocol']['label']}": Protocol.of_results(results).describe(),
        "Made with": made_rows,
    }


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
