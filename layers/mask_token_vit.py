"""The ViT in TiTok's decoder (Yu et al., arXiv 2406.07550): one mask token per patch, latent tokens, then text."""

import torch
from torch import Tensor, nn

from ..common.types import Grid, Stream
from .joint_transformer import JointTransformer, learned
from .located_start import sincos_places, start_located, token_grid
from .masking import seen_tokens
from .transformer import init_linear


class MaskTokenViT(nn.Module):
    """Latent tokens [B, n, dim], n up to num_tokens, to one vector per patch [B, h w, width].

    condition_dim, condition_tokens: width and length of the text features at the end of the sequence (TA-TiTok).
    position_std: of tokens and positions at the start; null: width ** -0.5. init_std: of linear layers;
    null: as PyTorch starts them (TA-TiTok, which makes its decoder after the pass that starts all others).
    located_start: instead of both, latent tokens have places in the image at first (located_start.py).
    """

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        grid: Grid,
        width: int,
        depth: int,
        num_heads: int,
        class_token: bool = True,
        condition_dim: int | None = None,
        condition_tokens: int = 77,
        position_std: float | None = None,
        init_std: float | None = 0.02,
        located_start: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.num_tokens, self.condition_tokens = grid, num_tokens, condition_tokens
        patches = grid[0] * grid[1]
        self.embed = nn.Linear(dim, width)
        self.mask_token = learned(1, 1, width, std=position_std)
        self.class_token = learned(1, 1, width, std=position_std) if class_token else None
        self.positions = learned(class_token + patches, width, std=position_std)
        self.latent_positions = learned(num_tokens, width, std=position_std)
        self.condition_embed: nn.Linear | None = None
        self.condition_positions: nn.Parameter | None = None
        if condition_dim is not None:
            self.condition_embed = nn.Linear(condition_dim, width)
            self.condition_positions = learned(condition_tokens, width, std=position_std)
        init_linear(self, init_std)
        self.transformer = JointTransformer(width=width, depth=depth, num_heads=num_heads, init_std=init_std)
        if located_start:
            start_located(self, self.transformer.attentions())
            with torch.no_grad():
                self.positions[-patches:] = sincos_places(grid, width)
                self.latent_positions.copy_(sincos_places(token_grid(num_tokens), width))
                self.mask_token.zero_()

    def forward(self, stream: Stream, conditions: Tensor | None = None) -> Tensor:
        x_BND, visible_BN = seen_tokens(stream)
        batch, length = x_BND.shape[:2]
        if length > self.num_tokens:
            raise ValueError(
                f"num_tokens={self.num_tokens} in the decoder, but {length} tokens; give the encoder's number"
            )
        patches = self.grid[0] * self.grid[1]
        picture = self.mask_token.expand(batch, patches, -1)
        if self.class_token is not None:
            picture = torch.cat([self.class_token.expand(batch, -1, -1), picture], dim=1)
        sequence = [picture + self.positions, self.embed(x_BND) + self.latent_positions[:length]]
        if self.condition_embed is not None:
            sequence.append(self._placed_conditions(conditions, batch))
        if visible_BN is not None:
            before, after = picture.shape[1], sum(part.shape[1] for part in sequence[2:])
            visible_BN = torch.nn.functional.pad(visible_BN, (before, after), value=True)
        out = self.transformer(torch.cat(sequence, dim=1), visible_BN)
        first = picture.shape[1] - patches
        return self.transformer.norm_out(out[:, first : first + patches])

    def _placed_conditions(self, conditions: Tensor | None, batch: int) -> Tensor:
        assert self.condition_embed is not None and self.condition_positions is not None
        assert conditions is not None, "Tokenizer.decode asks for them"
        if conditions.ndim != 3 or len(conditions) != batch or conditions.shape[1] > self.condition_tokens:
            raise ValueError(
                f"conditions have shape {list(conditions.shape)}; expected [{batch}, up to {self.condition_tokens}, "
                f"{self.condition_embed.in_features}], one row per image"
            )
        return self.condition_embed(conditions) + self.condition_positions[: conditions.shape[1]]
