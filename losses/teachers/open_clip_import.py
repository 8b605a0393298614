"""open_clip, if it is installed, with one-line errors where it only warns."""

from contextlib import nullcontext
from types import ModuleType
from typing import Any, Literal

from ...common.weights import Weights, are_left_out, fetching, load


def import_open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ValueError("this part needs the package open_clip: pip install open_clip_torch") from error
    return open_clip


def create_model(
    model: str,
    *,
    part: Literal["visual", "text"],
    tag: str | None,
    weights: str,
    image_size: int | None = None,
    made_by: str | None = None,
) -> tuple[Any, Weights]:
    """One tower of a CLIP, fp32 on the CPU. weights: `pretrained` (those of `tag`), PATH, or `random`."""
    open_clip = import_open_clip()
    if model not in open_clip.list_models():  # no hf-hub:OWNER/NAME, no local-dir:PATH
        raise ValueError(f"model={model}: open_clip knows no such model; open_clip.list_models() lists them")
    if weights == "pretrained" and tag not in (known := open_clip.list_pretrained_tags_by_model(model)):
        raise ValueError(f"tag={tag}: open_clip has no such weights of {model}; known: {', '.join(known) or 'none'}")
    fetched = weights == "pretrained" and not are_left_out()
    with fetching(f"open_clip's {model}, {tag}", source=weights) if fetched else nullcontext():
        whole = open_clip.create_model(
            model, pretrained=tag if fetched else None, force_image_size=image_size, force_custom_text=True
        )
    tower = getattr(whole, part)
    if fetched:
        return tower, Weights(source=weights, published=True)
    return tower, load(tower, weights, made_by=made_by, prefixes=(f"{part}.", ""))
