"""The 2015 Inception's file: what it is called, where it may lie, and how it is told from others."""

import hashlib
from pathlib import Path

from ..common.errors import MissingWeights, UserError
from ..common.weights import torch_hub_file

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256_START = "6726825d"


def find_inception(source: str) -> Path:
    """source: `pretrained` (torch.hub's folder, else one short download) or a file that the user names."""
    if source != "pretrained":
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(
                f"protocol.inception={source}: no such file; give pretrained, random, or the path of {INCEPTION_FILE}"
            )
        return path
    try:
        return torch_hub_file(INCEPTION_URL)
    except MissingWeights as error:
        raise MissingWeights(f"{error}; copy it there, or set protocol.inception=PATH/{INCEPTION_FILE}") from error


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
