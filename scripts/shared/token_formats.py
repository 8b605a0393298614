"""A token store in the layouts that trainers of autoregressive models read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.errors import UserError

if TYPE_CHECKING:
    from ...data.token_store import TokenStore


def write_format(store_folder: Path, format_name: str) -> Path:
    """Write it next to the shards; returns the path to give to the trainer."""
    from imtok.data.token_store import TokenStore

    store = TokenStore(store_folder)
    if not store.packing.joined:
        raise UserError(
            f"--format={format_name}: these streams have different numbers of codebooks; use --format=imtok"
        )
    return {"llamagen": _llamagen, "jsonl": _jsonl}[format_name](store)


def _llamagen(store: "TokenStore") -> Path:
    """`imagenet256_codes/{i}.npy` int [1, augmentations, tokens] and `imagenet256_labels/{i}.npy` int [1].

    LlamaGen's reader counts files 0..n-1; here one augmentation (the crop as encoded). Parallel codebooks lie token by
    token. Images without a class get 0: the reader embeds the label.
    """
    import numpy as np

    name = "x".join(str(s) for s in sorted(set(store.index["image_size"])))
    codes, labels = store.folder / f"imagenet{name}_codes", store.folder / f"imagenet{name}_labels"
    codes.mkdir(exist_ok=True)
    labels.mkdir(exist_ok=True)
    number = 0
    for _, classes, indices in _batches(store):
        if bool((indices < 0).any()):
            raise UserError("--format=llamagen: needs the same number of tokens for every image; use --format=jsonl")
        for label, row in zip(classes, indices.flatten(1).numpy(), strict=True):
            np.save(codes / f"{number}.npy", row[None, None])
            np.save(labels / f"{number}.npy", np.array([max(label, 0)]))
            number += 1
    for path in (*codes.iterdir(), *labels.iterdir()):  # of an earlier, longer store: the reader counts files
        if path.suffix == ".npy" and path.stem.isdecimal() and int(path.stem) >= number:
            path.unlink()
    return codes


def _jsonl(store: "TokenStore") -> Path:
    """`pretokenized.jsonl` of RAR (bytedance/1d-tokenizer): {"class_id": int, "tokens": [...]} a line, without -1."""
    path = store.folder / "pretokenized.jsonl"
    draft = path.with_name(f".{path.name}.writing")
    with draft.open("w", encoding="utf-8") as file:
        for _, classes, indices in _batches(store):
            for label, row in zip(classes, indices.flatten(1), strict=True):
                file.write(json.dumps({"class_id": max(label, 0), "tokens": row[row >= 0].tolist()}) + "\n")
    return draft.replace(path)


def _batches(store: "TokenStore") -> Any:
    """Of tensors: streams of different K have no form that AR trainers read, and were refused before."""
    return store.batches(256)
