"""Find a published weight file on this machine, or fetch it once."""

import hashlib
import os
import urllib.request
from collections.abc import Mapping
from functools import cache
from http.client import HTTPException
from pathlib import Path

import torch

from .errors import MissingWeights, UserError


def torch_hub_file(url: str) -> Path:
    """TORCH_HOME/hub/checkpoints/NAME; fetched when absent. A file's name ends in the first digits of its sha256."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if path.exists():
        return path
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise MissingWeights(f"{path.name} is not in {path.parent} (HF_HUB_OFFLINE=1, so it was not fetched)")
    failure = _fetch(url, path)
    if failure is not None:
        raise MissingWeights(f"{path.name} is not in {path.parent} and {url} could not be fetched ({failure})")
    return path


@cache  # a machine without network is asked once a process, not once a network that wants the file
def _fetch(url: str, path: Path, timeout: float = 5.0) -> str | None:
    """The reason why it failed, or None."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # processes side by side may all fetch it
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as source:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
                    digest.update(block)
        if not digest.hexdigest().startswith(path.stem.rsplit("-", 1)[-1]):
            return "the file that arrived is damaged"
        partial.replace(path)
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
        return str(getattr(error, "reason", error))
    finally:
        partial.unlink(missing_ok=True)
    return None


def read_state_dict(path: str | Path, *, key: str) -> dict[str, torch.Tensor]:
    """A .safetensors or torch file of tensors. key: the setting that named it, for error lines."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file; give a torchvision state dict, or random")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises a dozen kinds
        raise UserError(f"{key}={path}: cannot be read as a state dict ({type(error).__name__})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{key}={path}: holds no state dict of tensors")
    return state


def first_misfit(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], *, prefix: str = "") -> str | None:
    """The first of our tensors that has none of its shape under `prefix` in the file; None where all have one."""
    return next((k for k, v in own.items() if prefix + k not in state or state[prefix + k].shape != v.shape), None)
