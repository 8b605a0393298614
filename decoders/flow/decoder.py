"""FlexTok's decoder: a rectified-flow transformer from noise and codes to an image or a VAE's latents."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Latents
from ...layers.flex_block import ConditionedFlexBlock, match_like_with_like, modulated, normed, xavier, zeroed
from ...layers.located_start import sincos_places
from ...layers.masking import with_mask_vector
from ...layers.patches import from_patches, grid_of, sincos_grid, to_patches
from ...layers.prefix_places import prefix_places
from ..base import Decoder
from ..noise import picture_noise
from .guidance import Guidance
from .rectified import logit_normal_times, on_the_line, step_times, time_waves, velocity_of_line, velocity_to
from .samplers import SAMPLERS


class FlowDecoder(Decoder):
    """Bachmann et al., arXiv 2502.13967, section 3.2: noisy patches and codes in one sequence, adaLN-zero by time.

    dim: width of the codes. num_tokens: how many there are at most; dropped ones become a learned mask vector.
    input_size, out_channels: of what is sampled, images or a VAE's latents; given by the tokenizer.
    position_std, gate_start, patch_gain: of the codes' learned positions, of adaLN's gates and of the noisy patches'
        embedding at first; 0.5, 1.0 and 0.2 where training is short: then codes are read before the noise is.
    located_start: codes have positions in the image at first, as the encoder's registers do with the same switch;
        position_std is then what they differ by besides.
    time_waves: sines and cosines of the time, before a small MLP. condition_dropout: share of training samples
        without codes, which guidance needs.
    time_mean, time_deviation: training times are the sigmoid of such a normal.
    predicts: output of the last layer: the velocity, or the data, from which the velocity follows. A patch of pixels
        has more channels than the transformer is wide, so that its noise cannot pass; its data can (arXiv 2511.13720).
    Sampling, all part of the export: sampler euler or heun, steps, time_shift (above 1: more steps near the noise),
    guidance (a module, None: none) and noise_seed.
    """

    positions_ND: Tensor
    loss_names = ("velocity",)
    cheap_sample = False
    draws_noise = True

    def __init__(
        self,
        *,
        dim: int = 6,
        num_tokens: int = 256,
        input_size: Sequence[int] = (32, 32),
        out_channels: int = 3,
        patch_size: int = 2,
        width: int = 768,
        depth: int = 12,
        head_dim: int = 64,
        time_waves: int = 256,
        position_std: float = 0.02,
        gate_start: float = 0.0,
        patch_gain: float = 1.0,
        located_start: bool = False,
        condition_dropout: float = 0.1,
        time_mean: float = 0.0,
        time_deviation: float = 1.0,
        predicts: Literal["velocity", "data"] = "velocity",
        sampler: Literal["euler", "heun"] = "euler",
        steps: int = 20,
        time_shift: float = 1.0,
        guidance: Guidance | None = None,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps={steps}: 1 or more")
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout={condition_dropout}: a share from 0 to below 1")
        if time_shift <= 0:
            raise ValueError(f"time_shift={time_shift}: above 0; 1 is no shift")
        self.dim, self.num_tokens, self.patch_size, self.out_channels = dim, num_tokens, patch_size, out_channels
        self.width = width
        self.input_size = (int(input_size[0]), int(input_size[1]))
        self.grid = grid_of(self.input_size, patch_size)
        self.time_waves, self.condition_dropout = time_waves, condition_dropout
        self.time_mean, self.time_deviation = time_mean, time_deviation
        self.sampler, self.steps, self.time_shift, self.noise_seed = sampler, steps, time_shift, noise_seed
        self.guidance = guidance
        self.predicts = predicts

        self.from_codes = xavier(dim, width)
        self.token_positions = nn.Parameter(nn.init.normal_(torch.empty(num_tokens, width), std=position_std))
        self.mask_vector = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.no_codes = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        self.patches = xavier(out_channels * patch_size**2, width)
        with torch.no_grad():
            self.patches.weight.mul_(patch_gain)
        positions = sincos_places(self.grid, width) if located_start else sincos_grid(self.grid, width)
        self.register_buffer("positions_ND", positions, persistent=False)
        self.time = nn.Sequential(xavier(time_waves, width), nn.SiLU(), xavier(width, width))
        self.blocks = nn.ModuleList(
            ConditionedFlexBlock(width=width, head_dim=head_dim, gate_start=gate_start) for _ in range(depth)
        )
        if located_start:
            with torch.no_grad():
                self.token_positions.add_(prefix_places(num_tokens, width))
                match_like_with_like(self.blocks)
        self.modulation = zeroed(width, 2 * width)
        self.to_patches = zeroed(width, out_channels * patch_size**2)

    def registers(self, codes: Latents) -> Tensor:
        """Codes as the transformer reads them."""
        stream = codes["main"]
        x_BND = self.from_codes(stream.x_BND) + self.token_positions[: stream.x_BND.shape[1]]
        return with_mask_vector(x_BND, stream.mask_BN, self.mask_vector)

    def velocity(self, x_BCHW: Tensor, times_B: Tensor, registers_BND: Tensor) -> Tensor:
        condition_BD = self.time(time_waves(times_B, self.time_waves))
        tokens = (self.patches(to_patches(x_BCHW, self.patch_size)) + self.positions_ND, registers_BND)
        for block in self.blocks:
            tokens = block(tokens, condition_BD)
        shift, scale = self.modulation(F.silu(condition_BD)).chunk(2, dim=-1)
        said = self.to_patches(modulated(normed(tokens[0]), shift, scale))
        said_BCHW = from_patches(said, self.patch_size, self.grid)
        if self.predicts == "velocity":
            return said_BCHW
        return velocity_to(said_BCHW.float(), x_BCHW, times_B)

    def training_losses(self, codes: Latents, images: Tensor, conditions: Tensor | None = None) -> dict[str, Tensor]:
        registers = self.registers(codes)
        dropped_B = torch.rand(len(images), device=images.device) < self.condition_dropout
        registers = torch.where(dropped_B[:, None, None], self.no_codes.to(registers.dtype), registers)
        times_B = logit_normal_times(
            len(images), mean=self.time_mean, deviation=self.time_deviation, device=images.device
        )
        noise = torch.randn_like(images)
        predicted = self.velocity(on_the_line(images, noise, times_B), times_B, registers)
        return {"velocity": F.mse_loss(predicted.float(), velocity_of_line(images, noise).float())}

    def forward(
        self, codes: Latents, *, noise_BCHW: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        x_BND = codes["main"].x_BND
        if noise_BCHW is None:
            noise_BCHW = self._noise(x_BND, generator)
        registers = self.registers(codes)
        nothing = torch.zeros_like(registers) + self.no_codes.to(registers.dtype)
        guide = None if self.guidance is None or self.guidance.scale == 1 else self.guidance.start()

        def velocity(x: Tensor, t: float) -> Tensor:
            times_B = x.new_full((len(x),), t)
            with_codes = self.velocity(x, times_B, registers).float()
            return with_codes if guide is None else guide(with_codes, self.velocity(x, times_B, nothing).float())

        times = step_times(self.steps, shift=self.time_shift)
        return SAMPLERS[self.sampler](noise_BCHW.float(), velocity, times)

    def facts(self) -> dict[str, Any]:
        shift = "" if self.time_shift == 1 else f", time shift {self.time_shift:g}"
        return {
            "sampler": f"{self.sampler}, {self.steps} steps{shift}",
            "guidance": str(self.guidance) if self.guidance is not None else "none",
            "noise seed": self.noise_seed,
        }

    def _noise(self, codes_BND: Tensor, generator: torch.Generator | None) -> Tensor:
        shape = (self.out_channels, *self.input_size)
        if generator is None:
            return picture_noise(codes_BND, shape, seed=self.noise_seed)
        drawn = torch.randn((len(codes_BND), *shape), generator=generator, device=generator.device)
        return drawn.to(codes_BND.device)
