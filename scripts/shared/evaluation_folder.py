"""Where `imtok evaluate` writes: never over the numbers of something else."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ...common.errors import UserError

WEIGHTS = ("inception", "lpips_vgg", "lpips_alex", "weights")


def asked_for(out: str | None, run_dir_override: str | None) -> Path | None:
    """out=DIR, or hydra.run.dir=DIR as for training."""
    if out and run_dir_override and out != run_dir_override:
        raise UserError(f"out={out} and hydra.run.dir={run_dir_override} both name the output folder; give one")
    given = out or run_dir_override
    return Path(given).expanduser() if given else None


def default_folder(*, run_dir: Path, config: Mapping[str, Any], facts: Mapping[str, Any], split: str) -> Path:
    """The run's folder for what the run itself measures at its end; else a folder of its own below the run.

    config: the resolved config of this evaluation. facts: ImageData.describe().
    """
    if split == "val" and is_own_evaluation(run_dir, config):
        return run_dir
    words = [str(facts["name"]), split]
    if config["protocol"]["name"] != "tok-eval/v1":
        words.append(str(config["protocol"]["name"]).replace("/", "_"))
    if config["max_images"] is not None:
        words.append(f"{config['max_images']}images")
    folder = run_dir / "evaluations" / "-".join(words)
    if _root_in(folder / "metrics.json") not in (None, facts.get("root")):  # another folder was judged there
        folder = folder.with_name(f"{folder.name}-{Path(facts['root']).name}")
    return folder


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


def _root_in(metrics: Path) -> str | None:
    try:
        return json.loads(metrics.read_text())["data"].get("root", "")
    except (OSError, ValueError, KeyError):
        return None
