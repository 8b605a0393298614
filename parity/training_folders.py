"""Which experiment a stored training step belongs to, and which of our numbers its outputs are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..common.errors import UserError, did_you_mean
from .seen import Seen

Settings = Mapping[str, Any]
Value = Callable[[Seen], Tensor]


def weighted(*names: str) -> Value:
    """Sum of loss terms, each times its weight in the YAML."""
    return lambda seen: sum((seen.weighted(name) for name in names), start=seen.zero)


def raw(name: str, *, times: float = 1.0) -> Value:
    return lambda seen: times * seen.raw[name]


def _finished(folder: Settings, config: Settings) -> int:
    return int(folder.get("global_step") or 0)


def _one_less(folder: Settings, config: Settings) -> int:
    """Of loops that hand on the number of the update that is running, counted from 1."""
    return _finished(folder, config) - 1


@dataclass(frozen=True, kw_only=True)
class StoredStep:
    """One system with stored training steps.

    reader: the system's name among the readers of released weights. outputs: in addition to those of every system.
    chance: settings that take chance out, as the stored steps do. update: the number of finished updates.
    constant: what our total has more than theirs, a term's constant part. beside: parameters of loss terms,
    {theirs: ours}.
    """

    reader: str
    experiment: str
    outputs: Mapping[str, Value] = field(default_factory=dict)
    chance: Mapping[str, Any] = field(default_factory=dict)
    update: Callable[[Settings, Settings], int] = _finished
    constant: Value | None = None
    beside: Mapping[str, str] = field(default_factory=dict)


QUANTIZER = {"quantizer_loss": weighted("codebook", "commit"), "quant_loss": weighted("codebook", "commit")}
L1_LPIPS = {"nll_loss": weighted("l1", "lpips"), "reconstruction_loss": weighted("l1")}
SEED_VOKEN = {
    **L1_LPIPS,
    "per_sample_entropy": lambda seen: seen.output.quantized.stats["entropy_per_token"],
    "codebook_entropy": lambda seen: seen.output.quantized.stats["entropy_of_mean"],
    "commitment": raw("commit"),
}
L2 = {"reconstruction_loss": weighted("l2")}

STEPS = {
    "llamagen_vq": StoredStep(reader="llamagen_vq16", experiment="llamagen_vq16", outputs=L2, update=_one_less),
    "vqgan": StoredStep(
        reader="vqgan",
        experiment="vqgan_f16_1024",
        outputs={**L1_LPIPS, **QUANTIZER, "adaptive_weight": lambda seen: seen.raw["gan_weight"]},
    ),
    "open_magvit2": StoredStep(reader="open_magvit2", experiment="open_magvit2_256", outputs=SEED_VOKEN),
    "wetok": StoredStep(reader="wetok", experiment="wetok_imagenet_f16", outputs=SEED_VOKEN),
    "ibq": StoredStep(
        reader="ibq",
        experiment="ibq_16384",
        outputs={
            **L1_LPIPS,
            **QUANTIZER,
            "sample_entropy": lambda seen: seen.output.quantized.stats["entropy_per_token"],
            "avg_entropy": lambda seen: seen.output.quantized.stats["entropy_of_mean"],
        },
    ),
    "gigatok": StoredStep(
        reader="gigatok",
        experiment="gigatok_bl",
        outputs={
            **L2,
            "cosine": lambda seen: 1 - seen.raw["feature_alignment"],
            "inner_features": lambda seen: seen.output.features["decoder.align"],
        },
        update=_one_less,
        constant=lambda seen: seen.zero + seen.weight("feature_alignment"),  # 1 - cosine here, -cosine there
    ),
    "tokenflow": StoredStep(
        reader="tokenflow_clip",
        experiment="tokenflow_b",
        outputs={
            **L2,
            "semantic_loss": weighted("semantic_cosine"),
            "semantic_reconstruction": lambda seen: seen.output.heads["semantic"],
        },
        chance={"tokenizer.quantizer.scale_dropout": 0.0},
        update=_one_less,
    ),
}
STEPS["gigatok_early"] = StoredStep(
    reader="gigatok",
    experiment="gigatok_bl",
    outputs={
        **STEPS["gigatok"].outputs,
        "feature_reconstruction_loss": weighted("feature_match"),
        "direct_reconstruction": lambda seen: seen.direct_reconstruction(),
        "direct_reconstruction_loss": lambda seen: seen.direct_terms["l2"],
        "direct_lpips": lambda seen: seen.direct_terms["lpips"],
    },
    update=_one_less,
    constant=STEPS["gigatok"].constant,
)


def step_of(system: str) -> StoredStep:
    if system not in STEPS:
        raise UserError(
            f"system {system!r} has no experiment to compare its training with; {did_you_mean(system, STEPS)}"
        )
    return STEPS[system]
