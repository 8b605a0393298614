"""What a tower promises, and how it starts from the weights of its foundation model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...common.errors import MissingWeights, UserError
from ...common.types import Grid

STATISTICS = {  # mean and deviation that the weights were trained with, of images in [0, 1]; None: as they come
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Tower(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1] to patch tokens [B, N, width], without class token."""

    width: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def grid(self, image_size: tuple[int, int]) -> Grid:
        """Of the tokens; ValueError if the size cannot work."""


class Standardize(nn.Module):
    """Images in [-1, 1] to what the tower was trained on. name: half | clip | imagenet | none."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in (*STATISTICS, "none"):
            raise ValueError(f"statistics={name}: known: {', '.join(STATISTICS)}, none")
        self.changes = name not in ("none", "half")  # (x + 1) / 2 less a half, over a half, is x
        mean, deviation = (torch.tensor(v)[:, None, None] for v in STATISTICS.get(name, STATISTICS["half"]))
        self.register_buffer("scale", 0.5 / deviation, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / deviation, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift if self.changes else images


def start_from(
    tower: nn.Module,
    pretrained: str,
    *,
    fresh: tuple[str, ...] = (),
    renamed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
    **timm_options: Any,
) -> None:
    """Fill a tower with timm's names from `pretrained`: a timm model, or the path of a file with such names.

    fresh: beginnings of names that the foundation model lacks. renamed: from timm's names to the tower's.
    Nothing is fetched where the tokenizer is only measured, on tensors without content.
    """
    if any(isinstance(p, FakeTensor) or p.is_meta for p in tower.parameters()):
        return
    if Path(pretrained).suffix in (".safetensors", ".pt", ".pth", ".bin"):
        fill(tower, renamed(_of_file(Path(pretrained).expanduser())), source=pretrained, fresh=fresh)
        return
    import timm

    if not timm.is_model(pretrained):
        raise UserError(
            f"pretrained={pretrained}: neither a file nor a timm model (vit_so400m_patch14_siglip_384.webli)"
        )
    try:
        model = timm.create_model(pretrained, pretrained=True, num_classes=0, **timm_options)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise MissingWeights(
            f"pretrained={pretrained}: timm could not fetch these weights ({type(error).__name__}); give the path of a "
            "file, or null to start from random ones"
        ) from error
    fill(tower, renamed(model.state_dict()), source=pretrained, fresh=fresh)


def fill(tower: nn.Module, state: Mapping[str, Tensor], *, source: str, fresh: tuple[str, ...] = ()) -> None:
    """Every tensor of the tower has one in `state`; what is there besides (later blocks, a head) stays out."""
    own = {k: v for k, v in tower.state_dict().items() if k in state or not k.startswith(fresh or "-")}
    unfit = [k for k in own if k not in state or state[k].shape != own[k].shape]
    if unfit:
        raise UserError(f"pretrained={source}: other names or sizes than this tower's ({unfit[0]} ...); match them")
    tower.load_state_dict({k: state[k] for k in own}, strict=False)


def _of_file(path: Path) -> dict[str, Tensor]:
    from ..released.base import read_state_dict

    state = read_state_dict(path)
    for prefix in ("visual.trunk.", "encoder.tower.", "encoder.semantic.tower."):  # open_clip's, and our own exports'
        if any(k.startswith(prefix) for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return state
