"""Modules that have moved: old configs, exports and checkpoints name classes at their old place."""

MOVED = {  # old module -> new module, below imtok.
    "losses.clip_infonce": "losses.semantic.contrastive",
    "losses.semantic_cosine": "losses.semantic.cosine",
    "losses.semantic_gram": "losses.semantic.gram",
    "losses.semantic_infonce": "losses.semantic.infonce",
    "losses.semantic.clip_infonce": "losses.semantic.contrastive",
    "losses.semantic.mse_cosine": "losses.semantic.cosine",
    "losses.semantic.siglip": "losses.semantic.contrastive",
    "losses.semantic_mse_cosine": "losses.semantic.cosine",
    "losses.siglip": "losses.semantic.contrastive",
    "losses.tower_cosine": "losses.semantic.tower_cosine",
}


def current(target: str) -> str:
    """A class path as it is today."""
    module, _, name = target.rpartition(".")
    moved = MOVED.get(module.removeprefix("imtok."))
    return f"imtok.{moved}.{name}" if moved else target
