"""Group-wise lookup-free quantization (WeTok, arXiv 2508.05599): up to 2^128 codes as groups of bits."""

from typing import Literal

from .lfq import LFQ
from .shared.binary_entropy import MAX_JOINT_BITS, LogRule, OverGroups
from .shared.sign import BitOrder


class GroupedLFQ(LFQ):
    """One index per group of bits; losses as LFQ's, over one distribution that the groups of all tokens share.

    over_groups: "pooled" is WeTok's code. It asks that groups be even together, not each; "sum" (BSQ) and "mean" ask
        that of each.
    """

    def __init__(
        self,
        *,
        dim: int,
        bits: int = 32,
        groups: int = 4,
        over_groups: OverGroups = "pooled",
        temperature: float = 0.01,
        sample_weight: float = 1.0,
        batch_weight: float = 1.0,
        entropy_images: int | None = None,
        log_rule: LogRule = "exact",
        entropy_form: Literal["factorised", "table"] = "factorised",
        bound: bool = False,
        order: BitOrder = "lsb_first",
    ) -> None:
        if groups >= 1 and bits % groups == 0 and bits // groups > MAX_JOINT_BITS:
            fitting = next(g for g in range(groups, bits + 1) if bits % g == 0 and bits // g <= MAX_JOINT_BITS)
            raise ValueError(
                f"groups={groups}: groups of {bits // groups} bits are too large for their joint entropy (at most "
                f"{MAX_JOINT_BITS}); bits={bits} needs for example groups={fitting}"
            )
        super().__init__(
            dim=dim,
            bits=bits,
            groups=groups,
            temperature=temperature,
            sample_weight=sample_weight,
            batch_weight=batch_weight,
            entropy_images=entropy_images,
            log_rule=log_rule,
            entropy_form=entropy_form,
            bound=bound,
            order=order,
        )
        self.over_groups = over_groups
