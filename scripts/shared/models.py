"""The tokenizer that --model names, loaded, and the checksum of its weights."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.errors import UserError

if TYPE_CHECKING:
    import torch

    from ...tokenizers.tokenizer import Tokenizer


def load_model(
    name: str, device: "torch.device | str" = "cpu", *, trusted: str = ""
) -> tuple["Tokenizer", dict[str, Any]]:
    """(tokenizer in eval mode, {"model": folder, "model_sha256": of its weights})."""
    from imtok.tokenizers.hub import find_folder, from_pretrained

    folder = find_folder(name)
    return from_pretrained(folder, device=device, trusted=trusted), model_facts(folder)


def model_facts(folder: Path) -> dict[str, str]:
    """Which weights these are, without loading them."""
    from imtok.tokenizers.hub import WEIGHTS_FILE

    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"{folder / WEIGHTS_FILE} is missing; a tokenizer folder holds it and config.json")
    return {"model": str(folder.resolve()), "model_sha256": sha256(folder / WEIGHTS_FILE)}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
