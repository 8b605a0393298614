"""A discriminator on a frozen DINO ViT-S/16, at 224 pixels: that of VAR, XQ-GAN, GigaTok, ResTok and SFTok.

One small trained head on each of five depths; together they give 5 x 196 logits an image.
"""

import os
from functools import partial
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ...common.errors import MissingWeights, UserError
from ...tokenizers.towers.base import Standardize
from .frozen_trunk import FrozenTrunk, FrozenTrunkDiscriminator, check_taps, fill_randomly, patches_and_class

SIDE, PATCH = 224, 16
SETTING = "adversary.discriminator.weights"
URL = "https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"


class DinoDiscriminator(FrozenTrunkDiscriminator):
    """Images in [-1, 1] to logits [B, 5 * 196]; augment and kernel: see FrozenTrunkDiscriminator.

    weights: "pretrained" (DINO's file in TORCH_HOME, else fetched), PATH of such a file, or "random" (seeded).
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
        check_taps(taps, depth)
        trunk = DinoTrunk(width=width, depth=depth, num_heads=num_heads, taps=tuple(taps))
        trunk.fill(weights)
        super().__init__(trunk=trunk, augment=augment, kernel=kernel, norm="local_batch", spectral=True)


class DinoTrunk(FrozenTrunk):
    """[B, 3, 224, 224] in [-1, 1] to patch tokens plus class token, [B, D, 196], before block 0 and after `taps`."""

    def __init__(self, *, width: int, depth: int, num_heads: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.taps, self.width, self.depths = taps, width, 1 + len(taps)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, width))
        parts = {"act_layer": partial(nn.GELU, approximate="tanh"), "norm_layer": partial(nn.LayerNorm, eps=1e-6)}
        self.blocks = nn.ModuleList(Block(dim=width, num_heads=num_heads, qkv_bias=True, **parts) for _ in range(depth))
        self.standardize = Standardize("imagenet")

    def side_for(self, side: int) -> int:
        return SIDE

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed["proj"](self.standardize(images)).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x.float()], dim=1) + self.pos_embed
        found = [patches_and_class(x)]
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.taps:
                found.append(patches_and_class(x))
        return found

    def fill(self, weights: str) -> None:
        if weights == "random":
            fill_randomly(self)
            return
        from ...common.weights import first_misfit, read_state_dict

        state = read_state_dict(_file() if weights == "pretrained" else weights, key=SETTING)
        own = self.state_dict()
        if wrong := first_misfit(own, state):
            raise UserError(f"{SETTING}={weights}: not DINO's ViT-S/16 ({wrong} missing or misshapen)")
        state = {k: state[k].clone() for k in own}
        for name, value in state.items():
            if name.endswith("attn.qkv.bias"):  # a key's bias moves all of a query's scores alike; published as zero
                value[len(value) // 3 : 2 * len(value) // 3] = 0
        self.load_state_dict(state)
        self.weights_are_random = False


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
