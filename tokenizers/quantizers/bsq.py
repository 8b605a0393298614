"""Binary spherical quantization (arXiv 2406.07548): the unit sphere, and the corners of the cube inscribed in it.

Ours rather than vector-quantize-pytorch's LFQ(spherical=True): that is 100 times sharper than the published code, has
another straight-through scale, and no per-bit entropy.
"""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from .base import StreamQuantized
from .shared.binary_entropy import OverGroups, binary_entropies, check_entropy_weights, check_group_bits
from .shared.entropy_groups import check_entropy_images, grouped_entropies
from .shared.limits import check_positive
from .shared.sign import BitOrder, SignQuantizer


class BSQ(SignQuantizer):
    """Raw losses: `commit` mean over tokens of |u - sg(code)|^2 (published weight 0), and `entropy`.

    temperature: of the soft assignment softmax(2 u.c / temperature); a bit's log-odds are 4 u_i / (sqrt(bits) T).
    entropy_group_bits: 1 is the published per-bit form: both entropies are sums over bits. More: joint distributions of
        so many bits, summed over groups; at most 18.
    entropy_images: images whose tokens make one mean code of H(code); null: all images of all processes.
    sample_weight, batch_weight: gamma_0 and gamma of the published code.
    gradient: "official" passes it straight through the signs +-1 and so scales it by 1 / sqrt(bits); "unit" passes it
        straight through the scaled code.
    """

    loss_names: tuple[str, ...] = ("commit", "entropy")
    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        bits: int = 18,
        groups: int = 1,
        temperature: float = 1.0,
        entropy_group_bits: int = 1,
        entropy_images: int | None = None,
        over_groups: OverGroups = "sum",
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
        gradient: Literal["official", "unit"] = "official",
        order: BitOrder = "msb_first",
    ) -> None:
        super().__init__(dim=dim, bits=bits, groups=groups, scale=max(bits, 1) ** -0.5, order=order)
        check_positive(temperature=temperature)
        check_entropy_weights(sample_weight, batch_weight)
        check_entropy_images(entropy_images)
        self.entropy_images = entropy_images
        self.temperature = temperature
        self.entropy_group_bits = check_group_bits(bits=bits, group_bits=entropy_group_bits)
        self.over_groups: OverGroups = over_groups
        self.sample_weight, self.batch_weight, self.gradient = sample_weight, batch_weight, gradient

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        u = F.normalize(z_BND, dim=-1)
        signs, indices = self.signs(u), self.to_indices(u)
        codes = signs * self.scale
        if not self.training:
            return StreamQuantized(codes, indices)
        per_token, of_mean = self.entropies(u)
        losses = {
            "commit": (u - codes).square().sum(dim=-1).mean(),
            "entropy": self.sample_weight * per_token - self.batch_weight * of_mean,
        }
        stats = {"entropy_per_token": per_token.detach(), "entropy_of_mean": of_mean.detach()}
        through = u * self.scale if self.gradient == "official" else u
        return StreamQuantized(through + (codes - through).detach(), indices, losses, stats)

    def entropies(self, u_BND: Tensor) -> tuple[Tensor, Tensor]:
        """H(code | token) and H(code) of softmax(2 u.c / temperature), by groups of bits."""
        rules: dict[str, Any] = {"group_bits": self.entropy_group_bits, "over_groups": self.over_groups}

        def of_tokens(u_NB: Tensor, joined: bool) -> tuple[Tensor, Tensor]:
            return binary_entropies(u_NB * (4 * self.scale / self.temperature), joined=joined, **rules)

        return grouped_entropies(of_tokens, u_BND, self.entropy_images)
