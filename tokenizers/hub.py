"""A tokenizer as a folder: model.safetensors, config.json, README.md. Loading it never runs code from it."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .. import __version__
from ..common.build import build, trusted_parts
from ..common.errors import UserError
from ..common.weights import check_state, read
from .model_card import model_card
from .tokenizer import Tokenizer

FORMAT = "imtok-tokenizer"
FORMAT_VERSION = 1
WEIGHTS_FILE = "model.safetensors"


def save_pretrained(
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    facts: Mapping[str, Any] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write the folder. `facts` (experiment, update, metrics ...) go into config.json and the model card.

    weights: where the tokenizer's own are sharded over processes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file, save_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "imtok_version": __version__,
        "tokenizer": _plain(tokenizer.config),
        "image": {"size": list(tokenizer.image_size), "range": [-1, 1], "channels": "RGB"},
        "codebook": {
            "size": tokenizer.codebook_size,
            "tokens_per_image": tokenizer.num_tokens,
            "bits_per_image": tokenizer.bits_per_image,
        },
        "training": dict(facts or {}),
    }
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing_") as unfinished:
        draft = Path(unfinished)
        try:
            file, about = str(draft / WEIGHTS_FILE), {"format": "pt"}
            if weights is None:
                save_model(tokenizer, file, metadata=about)
            else:
                save_file({name: tensor.contiguous() for name, tensor in weights.items()}, file, metadata=about)
        except SafetensorError as error:  # a full disk comes as this type, its number in the text
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder / WEIGHTS_FILE)) from error
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (draft / "README.md").write_text(model_card(tokenizer, config))
        for name in (WEIGHTS_FILE, "config.json", "README.md"):
            os.replace(draft / name, folder / name)
    return folder


def from_pretrained(
    path_or_hub_id: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    trusted: str | Sequence[str] = (),
) -> Tokenizer:
    """Read a folder written by `save_pretrained`, or a Hugging Face hub id; returns it in eval mode.

    trusted: packages besides imtok whose classes the tokenizer may name, such as ["mypkg"]; their code runs.
    """
    folder = find_folder(path_or_hub_id, revision=revision)
    config = read_config(folder)
    state = read_weights(folder / WEIGHTS_FILE)
    with not_much_larger_than(state, source=str(folder / "config.json")):
        tokenizer = build(config["tokenizer"], key="tokenizer", trusted=trusted_parts(trusted))
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"{folder}/config.json: tokenizer._target_ is a {type(tokenizer).__name__}, not a Tokenizer")
    check_state(tokenizer.state_dict(), state, source=str(folder / WEIGHTS_FILE))
    tokenizer.load_state_dict(state)
    return tokenizer.to(device).eval()


@contextmanager
def not_much_larger_than(state: Mapping[str, torch.Tensor], *, source: str) -> Iterator[None]:
    """Stops a config.json that describes far more than its weights hold, before memory runs out.

    The room of 4x is for parts that make parameters and drop them again.
    """
    most_tensors = 4 * len(state) + 1000
    most_numbers = 4 * sum(tensor.numel() for tensor in state.values()) + 10_000_000
    made = [0, 0]

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        made[0] += 1
        made[1] += parameter.numel() if parameter is not None else 0
        if made[0] > most_tensors or made[1] > most_numbers:
            raise UserError(f"{source} describes a far larger model than its weights; they do not belong together")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def load_weights(module: nn.Module, file: Path) -> None:
    """Strict: a checkpoint of another architecture is refused by the names that do not fit."""
    state = read_weights(file)
    check_state(module.state_dict(), state, source=str(file))
    module.load_state_dict(state)


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise UserError(f"{file} is missing; a tokenizer folder holds {WEIGHTS_FILE} and config.json")
    return read(file)


def find_folder(path_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """A local folder as it is; otherwise the hub's copy."""
    folder = Path(path_or_hub_id).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and (folder / "tokenizer" / "config.json").is_file():
            return folder / "tokenizer"  # a run folder was given
        return folder
    name = str(path_or_hub_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"model={name}: no such folder (and not a hub id, which looks like owner/name)")
    from huggingface_hub import snapshot_download

    try:
        files = [WEIGHTS_FILE, "config.json", "README.md"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files, etag_timeout=5))
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise UserError(
            f"model={name}: no such folder, and the hub gave no copy ({type(error).__name__}); "
            "give the path of an exported tokenizer/ folder"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"model={folder}: no config.json there; an exported tokenizer/ folder holds one") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, numbers of thousands of digits, depth
        raise UserError(f"{file} is not JSON ({str(error)[:200]}); copy or export the folder again") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise UserError(
            f"{file} is not an imtok tokenizer's; `imtok import-weights` reads the checkpoints of other projects"
        )
    if not isinstance(config.get("tokenizer"), dict) or not isinstance(config.get("format_version"), int):
        raise UserError(f"{file} has no tokenizer or no format_version; copy or export the folder again")
    if config["format_version"] > FORMAT_VERSION:
        raise UserError(f"{file} was written by imtok {config.get('imtok_version')}: pip install --upgrade imtok")
    return config


def _plain(node: Any) -> Any:
    """Config values as JSON, without the keys that only training reads or that name weights to start from."""
    if isinstance(node, Mapping):
        return {k: None if k == "pretrained" else _plain(v) for k, v in node.items() if k != "tiny"}
    return [_plain(v) for v in node] if isinstance(node, (list, tuple)) else node
