"""Where `imtok evaluate` writes: never over the numbers of something else."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ...common.errors import UserError
from ...common.output_folder import check_folder

WEIGHTS = ("inception", "lpips_vgg", "lpips_alex", "weights")


def asked_for(out: str | None, run_dir_override: str | None) -> Path | None:
    """out=DIR, or hydra.run.dir=DIR as for training."""
    if out and run_dir_override and out != run_dir_override:
        raise UserError(f"out={out} and hydra.run.dir={run_dir_override} both name the output folder; give one")
    given = out or run_dir_override
    return Path(given).expanduser() if given else None


def run_folder(folder: Path) -> Path | None:
    """The training run that the model lies in, if it does."""
    parent = folder.resolve().parent
    return parent if any((parent / name).is_file() for name in ("config.yaml", "metrics.csv")) else None


def model_name(folder: Path) -> str:
    """`quickstart/2026-11-21_02-31` for runs/quickstart/STAMP/tokenizer; the folder's own name elsewhere."""
    folder = folder.resolve()
    if folder.name == "tokenizer":
        return "/".join(folder.parent.parts[-2:])
    if "snapshots" in folder.parts:  # the hub's cache: .../models--owner--name/snapshots/HASH
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def default_folder(
    *, run_dir: Path, model: Path, config: Mapping[str, Any], facts: Mapping[str, Any], split: str
) -> Path:
    """The run's folder for what the run itself measures at its end; else a folder of its own below the run.

    config: the resolved config of this evaluation. facts: ImageData.describe().
    """
    own = model.resolve().name == "tokenizer"  # and no other export that lies in the run folder
    if own and split == "val" and is_own_evaluation(run_dir, config):
        return run_dir
    words = [str(facts["name"]), split] if own else [model.resolve().name, str(facts["name"]), split]
    if config["protocol"]["name"] != "tok-eval/v1":
        words.append(str(config["protocol"]["name"]).replace("/", "_"))
    if config["max_images"] is not None:
        words.append(f"{config['max_images']}images")
    folder = run_dir / "evaluations" / "-".join(words)
    if _root_in(folder) not in (None, facts.get("root")):  # another folder was judged there
        folder = folder.with_name(f"{folder.name}-{Path(facts['root']).name}")
    return folder


def check_out(out: Path, about: Mapping[str, Any], *, run_dir: Path | None, by_default: bool, overwrite: bool) -> None:
    """Refuses a folder of other files, and one with the report of another model, data or protocol.

    about: weights_sha256, folder (of the model), data (facts), protocol (label) of what will be measured.
    by_default: nobody named `out`; a run's own folder is then as it should be.
    """
    before = _report_in(out)
    own = before is not None or (by_default and run_dir is not None and out.resolve() == run_dir)
    check_folder(out, key="out", overwrite=overwrite, remedy="overwrite=true", is_own=lambda _: own)
    if before is None or overwrite:
        return
    model, data = before["model"], before["data"]
    if "weights_sha256" in model:
        same_model = model["weights_sha256"] == about["weights_sha256"]
    else:  # written by the run itself, or before weights had a number
        named = model.get("folder") or (run_dir and run_dir / "tokenizer")
        same_model = named is not None and Path(named).resolve() == about["folder"].resolve()
    same = {
        "model": same_model,
        "data": all(data.get(key) == about["data"].get(key) for key in ("name", "root", "evaluated")),
        "protocol": before["protocol"]["label"] == about["protocol"],
    }
    if other := [name for name, equal in same.items() if not equal]:
        raise UserError(
            f"out={out} holds metrics.json of another {' and '.join(other)}; take another folder, or overwrite=true"
        )


def _report_in(folder: Path) -> dict[str, Any] | None:
    """metrics.json as `imtok evaluate` and runs write it."""
    try:
        found = json.loads((folder / "metrics.json").read_text())
        return found if {"model", "data", "protocol"} <= set(found) and "label" in found["protocol"] else None
    except (OSError, ValueError, TypeError):
        return None


def is_own_evaluation(run_dir: Path, config: Mapping[str, Any]) -> bool:
    """The same images, prepared and measured the same way, as the run's own config says."""
    import yaml

    try:
        trained = yaml.safe_load((run_dir / "config.yaml").read_text())
        own = _what_is_measured(trained["data"], trained["protocol"])
    except (OSError, KeyError, TypeError, yaml.YAMLError):
        return False
    return config["max_images"] is None and own == _what_is_measured(config["data"], config["protocol"])


def _what_is_measured(data: Mapping[str, Any], protocol: Mapping[str, Any]) -> dict[str, Any]:
    from ...eval.protocol import Protocol

    unsaid = {f.name: f.default for f in fields(Protocol) if f.default is not MISSING}  # keys that a run did not write
    unsaid["metrics"] = list(Protocol.metrics)
    source = {k: v for k, v in data["source"].items() if k != "split_file" and (k, v) != ("captions", "auto")}
    if source.get("root"):
        source["root"] = str(Path(source["root"]).expanduser().resolve())
    return {
        "source": source,
        "image_size": data["image_size"],
        "val_crop": data.get("val_crop"),
        # A file of weights that was missing then completes the numbers; random ones would spoil them.
        "protocol": {k: v == "random" if k in WEIGHTS else v for k, v in (unsaid | protocol).items()},
    }


def _root_in(folder: Path) -> str | None:
    report = _report_in(folder)
    return None if report is None else report["data"].get("root", "")
