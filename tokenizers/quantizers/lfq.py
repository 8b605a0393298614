"""Lookup-free quantization: every channel becomes its sign (MAGVIT-v2, arXiv 2310.05737; Open-MAGVIT2, 2409.04410).

Ours rather than vector-quantize-pytorch's LFQ, which builds the table of tokens x codes for its entropies (14 GiB at
2^18 codes and 2048 tokens), computes them wrongly over several processes, and numbers codes in the other bit order.
"""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from .base import StreamQuantized
from .shared.binary_entropy import LogRule, OverGroups, binary_entropies, check_entropy_weights, check_group_bits
from .shared.binary_entropy_table import table_entropies
from .shared.entropy_groups import check_entropy_images, grouped_entropies
from .shared.limits import check_positive
from .shared.sign import BitOrder, SignQuantizer


class LFQ(SignQuantizer):
    """Raw losses: `commit` mean (z - sg(code))^2; `entropy`, sample_weight * H(code | token) - batch_weight * H(code).

    temperature: of the soft assignment; 0.01 as published, where only |z| < 0.02 feels the entropy.
    entropy_group_bits: bits of one joint distribution of H(code); all of them by default, which is exact. More than 18
        bits must be split: the sum over groups is an upper bound of the joint entropy.
    entropy_images: images whose tokens make one mean code of H(code): published code has those of one GPU (8 in
        Open-MAGVIT2). null: all images of all processes.
    log_rule: "exact"; "offset", the published log(p + 1e-5), which hides the codes rarer than 1e-5; "floor",
        log(max(p, 1e-5)) of vector-quantize-pytorch.
    entropy_form: "factorised", or "table": every code of every token in the published arithmetic, for parity; "floor"
        needs it.
    groups: indices per token; one, as long as it fits an int64. grouped_lfq.py has WeTok's entropy.
    bound: squash z to (-1, 1) by 2 sigmoid(z) - 1 first (SigLu of UniWeTok), so that entropy and commit can agree.
    """

    loss_names: tuple[str, ...] = ("commit", "entropy")
    joined_batch_equal = True
    over_groups: OverGroups = "sum"

    def __init__(
        self,
        *,
        dim: int,
        bits: int = 10,
        temperature: float = 0.01,
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
        entropy_group_bits: int | None = None,
        entropy_images: int | None = None,
        log_rule: LogRule = "exact",
        entropy_form: Literal["factorised", "table"] = "factorised",
        bound: bool = False,
        groups: int = 1,
        order: BitOrder = "lsb_first",
    ) -> None:
        super().__init__(dim=dim, bits=bits, groups=groups, scale=1.0, order=order)
        check_positive(temperature=temperature)
        if log_rule == "floor" and entropy_form == "factorised":
            raise ValueError("log_rule=floor: a floored logarithm does not factorise; set entropy_form=table")
        check_entropy_weights(sample_weight, batch_weight)
        check_entropy_images(entropy_images)
        self.entropy_images = entropy_images
        self.temperature, self.sample_weight, self.batch_weight = temperature, sample_weight, batch_weight
        self.log_rule: LogRule = log_rule
        self.entropy_form, self.bound = entropy_form, bound
        own_groups = bits // groups if entropy_group_bits is None else entropy_group_bits
        self.entropy_group_bits = check_group_bits(bits=bits, group_bits=own_groups)

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        if self.bound:
            z_BND = (z_BND / 2).tanh()  # = 2 sigmoid(z) - 1
        codes, indices = self.signs(z_BND), self.to_indices(z_BND)
        if not self.training:
            return StreamQuantized(codes, indices)
        per_token, of_mean = self.entropies(z_BND)
        losses = {
            "commit": F.mse_loss(z_BND, codes),
            "entropy": self.sample_weight * per_token - self.batch_weight * of_mean,
        }
        stats = {"entropy_per_token": per_token.detach(), "entropy_of_mean": of_mean.detach()}
        return StreamQuantized(z_BND + (codes - z_BND).detach(), indices, losses, stats)

    def entropies(self, z_BND: Tensor) -> tuple[Tensor, Tensor]:
        """H(code | token) and H(code) of softmax(2 z.c / temperature): 4 z / temperature is a bit's log-odds."""
        rules = {"over_groups": self.over_groups, "log_rule": self.log_rule}
        given: dict[str, Any] = {"group_bits": self.entropy_group_bits, **rules}

        def of_tokens(z_NB: Tensor, joined: bool) -> tuple[Tensor, Tensor]:
            if self.entropy_form == "factorised":
                return binary_entropies(z_NB * (4 / self.temperature), joined=joined, **given)
            msb_first = self.order == "msb_first"
            return table_entropies(z_NB, temperature=self.temperature, joined=joined, msb_first=msb_first, **given)

        return grouped_entropies(of_tokens, z_BND, self.entropy_images)
