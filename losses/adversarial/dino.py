"""A discriminator that judges by the features of a frozen DINO ViT-S/16 (StyleGAN-T, arXiv:2301.09515; XQ-GAN, VAR).

One small trained head on each of five depths; together they give 5 x 196 logits an image.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ...configs.errors import MissingWeights, UserError

SIDE, PATCH = 224, 16
SETTING = "adversary.discriminator.weights"
URL = "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"


class DinoDiscriminator(nn.Module):
    """Images in [-1, 1] to logits [B, 5 * 196].

    weights: "pretrained" (DINO's file in TORCH_HOME, else fetched), PATH of such a file, or "random" (seeded).
    augment: what the images go through in training, DiffAugment or null. kernel: of the second convolution of a head.
    The frozen trunk is hidden from the module tree: no checkpoint or optimizer finds it, but it moves with `.to`.
    """

    def __init__(
        self,
        *,
        weights: str = "pretrained",
        augment: nn.Module | None = None,
        kernel: int = 9,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        taps: tuple[int, ...] = (2, 5, 8, 11),
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"adversary.discriminator.kernel={kernel}: give an odd number")
        if max(taps) >= depth:
            raise UserError(f"adversary.discriminator.taps={list(taps)}: blocks are 0 to {depth - 1}")
        trunk = DinoTrunk(width=width, depth=depth, num_heads=num_heads, taps=tuple(taps))
        trunk.fill(weights)
        self.__dict__["trunk"] = trunk.requires_grad_(False).eval()
        self.augment = augment
        self.heads = nn.ModuleList(
            nn.Sequential(_block(width, 1), Residual(_block(width, kernel)), _convolution(width, 1, 1))
            for _ in range(1 + len(taps))
        )

    @property
    def weights_are_random(self) -> bool:
        return self.trunk.weights_are_random

    def forward(self, images: Tensor) -> Tensor:
        if self.augment is not None and self.training:
            images = self.augment(images.float())
        features = self.trunk(self._to_side(images.float()))
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, features, strict=True)], dim=1)

    def _to_side(self, images: Tensor) -> Tensor:
        """Larger pictures are cropped or shrunk, each half the time, so that fine and coarse are both judged."""
        height, width = images.shape[-2:]
        if min(height, width) > SIDE and self.training and float(torch.rand(())) <= 0.5:
            top, left = (int(torch.randint(side - SIDE + 1, ())) for side in (height, width))
            return images[..., top : top + SIDE, left : left + SIDE]
        return F.interpolate(images, (SIDE, SIDE), mode="area" if height > SIDE else "bicubic")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DinoDiscriminator":
        self.trunk._apply(fn)
        return super()._apply(fn, recurse)


class DinoTrunk(nn.Module):
    """[B, 3, 224, 224] in [-1, 1] to patch tokens plus class token, [B, D, 196], before block 0 and after `taps`."""

    def __init__(self, *, width: int, depth: int, num_heads: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps = taps
        self.weights_are_random = True
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, width))
        parts = {"act_layer": partial(nn.GELU, approximate="tanh"), "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
        self.blocks = nn.ModuleList(Block(dim=width, num_heads=num_heads, qkv_bias=True, **parts) for _ in range(depth))
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("scale", (0.5 / deviation)[:, None, None], persistent=False)
        self.register_buffer("shift", ((0.5 - mean) / deviation)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed["proj"](images * self.scale + self.shift).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.float()], dim=1) + self.pos_embed
        found = [_read(x)]
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.taps:
                found.append(_read(x))
        return found

    def fill(self, weights: str) -> None:
        if weights == "random":
            generator = torch.Generator().manual_seed(0)
            for name, parameter in self.named_parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02, generator=generator)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)
            return
        from ..pretrained_file import read_state_dict

        state = read_state_dict(_file() if weights == "pretrained" else weights, key=SETTING)
        own = self.state_dict()
        wrong = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
        if wrong:
            raise UserError(f"{SETTING}={weights}: not DINO's ViT-S/16 ({wrong[0]} missing or misshapen)")
        state = {k: state[k].clone() for k in own}
        for name, value in state.items():
            if name.endswith("attn.qkv.bias"):  # a key's bias moves all of a query's scores alike; published as zero
                value[len(value) // 3 : 2 * len(value) // 3] = 0
        self.load_state_dict(state)
        self.weights_are_random = False


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) + x) / 2**0.5


class LocalBatchNorm(nn.Module):
    """Batch norm over groups of at most `group` samples, in training and in eval: no running statistics."""

    def __init__(self, *, width: int, group: int = 8, eps: float = 1e-6) -> None:
        super().__init__()
        self.group = group
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BCL: Tensor) -> Tensor:
        groups = x_BCL.float().tensor_split(-(-len(x_BCL) // self.group))
        with torch.autocast(x_BCL.device.type, enabled=False):
            normed = [F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps) for x in groups]
        return torch.cat(normed)


def _convolution(channels_in: int, channels_out: int, kernel: int) -> nn.Module:
    conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2, padding_mode="circular")
    return spectral_norm(conv)


def _block(width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(_convolution(width, width, kernel), LocalBatchNorm(width=width), nn.LeakyReLU(0.2))


def _read(x_BND: Tensor) -> Tensor:
    x_BND = x_BND.float()
    return (x_BND[:, 1:] + x_BND[:, :1]).transpose(1, 2)


def _file() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[-1]
    if path.exists():
        return path
    reason = "HF_HUB_OFFLINE=1, so it was not fetched"
    if os.environ.get("HF_HUB_OFFLINE") != "1":
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), progress=False)
            return path
        except OSError as error:  # URLError and time-outs are OSErrors
            reason = f"{URL} could not be fetched: {getattr(error, 'reason', error)}"
    raise MissingWeights(f"{SETTING}=pretrained: {path.name} is not in {path.parent} ({reason}); use {SETTING}=PATH")
