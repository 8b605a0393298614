"""open_clip, if it is installed, with errors of one line; it warns where it should refuse."""

from types import ModuleType

from torch import nn

from .base import NoWeights


def import_open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError as error:
        raise ValueError("this part needs the package open_clip: pip install open_clip_torch") from error
    return open_clip


def create_model(model: str, *, tag: str | None, weights: str, image_size: int | None = None) -> nn.Module:
    """`.visual` and `.text`, fp32 on the CPU; without a tag the weights are drawn, which open_clip only logs."""
    open_clip = import_open_clip()
    if model not in open_clip.list_models():  # no hf-hub:OWNER/NAME, no local-dir:PATH
        raise ValueError(f"model={model}: open_clip knows no such model; open_clip.list_models() lists them")
    if weights == "pretrained" and tag not in (known := open_clip.list_pretrained_tags_by_model(model)):
        raise ValueError(f"tag={tag}: open_clip has no such weights of {model}; known: {', '.join(known) or 'none'}")
    try:
        return open_clip.create_model(model, pretrained=tag, force_image_size=image_size, force_custom_text=True)
    except Exception as error:  # the hub client raises a dozen unrelated types
        if weights != "pretrained":
            raise
        raise NoWeights(
            f"weights=pretrained: open_clip could not fetch {model}, {tag} ({type(error).__name__}); give the path of "
            "a state dict, or random to try things"
        ) from error
