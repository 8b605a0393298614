"""Which experiment a stored training step belongs to, and which of our numbers its outputs are."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
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
    update: the number of finished updates.
    constant: what our total has more than theirs, a term's constant part. beside: parameters of loss terms,
    {theirs: ours}. not_stored: beginnings of names of parts of our tokenizer that this update does not read.
    chance: settings of parts that take chance out, as this step does, beside those of all steps.
    as_stored: settings that the weights have otherwise than the experiment, {key: why that is the same}.
    sibling: of `experiment`, where the folder is another model of the family.
    """

    reader: str
    experiment: str
    outputs: Mapping[str, Value] = field(default_factory=dict)
    update: Callable[[Settings, Settings], int] = _finished
    constant: Value | None = None
    beside: Mapping[str, str] = field(default_factory=dict)
    not_stored: tuple[str, ...] = ()
    chance: Mapping[str, Any] = field(default_factory=dict)
    as_stored: Mapping[str, str] = field(default_factory=dict)
    sibling: Callable[[Settings], str | None] = lambda folder: None


QUANTIZER = {"quantizer_loss": weighted("codebook", "commit"), "quant_loss": weighted("codebook", "commit")}
L1_LPIPS = {"nll_loss": weighted("l1", "lpips"), "reconstruction_loss": weighted("l1")}
SEED_VOKEN = {
    **L1_LPIPS,
    "per_sample_entropy": lambda seen: seen.output.quantized.stats["entropy_per_token"],
    "codebook_entropy": lambda seen: seen.output.quantized.stats["entropy_of_mean"],
    "commitment": raw("commit"),
}
L2 = {"reconstruction_loss": weighted("l2")}

TOKENFLOW = {"clip": "tokenflow_b", "vita": "tokenflow_l", "sigl": "tokenflow_xl"}  # by the teacher's first letters

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
        sibling=lambda folder: TOKENFLOW.get(str(folder["constructor"].get("teacher"))[:4]),
        outputs={
            **L2,
            "semantic_loss": weighted("semantic_cosine"),
            "semantic_reconstruction": lambda seen: seen.output.heads["semantic"],
        },
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

TITOK = {
    "reconstruction_loss": lambda seen: seen.raw["proxy_codes"] if "proxy_codes" in seen.raw else seen.weighted("l2"),
    "proxy_logits": lambda seen: seen.output.features["proxy_logits"].transpose(1, 2),
    "convnext": raw("convnext"),
    "perceptual_loss": weighted("lpips", "convnext"),
    "perceptual": lambda seen: _perceptual(seen),
    "kl_loss": weighted("kl"),
    "kl": raw("kl"),
    "discriminator.lecam": lambda seen: seen.training.adversary.lecam.weight * seen.raw["lecam"],
    "codebook_after_forward": lambda seen: seen.before["generator"]["quantizer.codebook"],
    "usage_after_forward": lambda seen: _usage_shares(seen.training.tokenizer.quantizer),
    **QUANTIZER,
}
PROXY = ("decoder.codebook", "decoder.pixels.")
for family, reader, s in (("titok", "titok", "titok_b64"), ("one_d_piece", "one_d_piece", "one_d_piece_s256")):
    STEPS[f"{family}_stage1"] = StoredStep(reader=reader, experiment=f"{s}/stage1", outputs=TITOK, not_stored=PROXY)
    STEPS[f"{family}_stage2"] = StoredStep(reader=reader, experiment=f"{s}/stage2", outputs=TITOK)
STEPS["ta_titok_vq"] = StoredStep(reader="ta_titok", experiment="ta_titok_bl64_vq", outputs=TITOK)
STEPS["titok_vae"] = StoredStep(reader="titok_single_stage", experiment="titok_bl64_vae", outputs=TITOK)

XQGAN = {**L2, "semantic_loss": weighted("semantic_infonce")}
STEPS["imagefolder"] = StoredStep(reader="imagefolder", experiment="imagefolder", outputs=XQGAN, update=_one_less)
STEPS["xqgan_vq"] = StoredStep(reader="xqgan_vq", experiment="xqgan_vq_4096", outputs=XQGAN, update=_one_less)

STREAMS = {"pix": "pixel", "sem": "semantic"}
STEPS["dualtoken"] = StoredStep(
    reader="dualtoken",
    experiment="dualtoken_256",
    outputs={
        "pooled": lambda seen: seen.output.heads["semantic"],
        "semantic_tokens": lambda seen: seen.output.features["heads.semantic.expand"],
        "semantic_mse": lambda seen: F.mse_loss(*seen.beside_teacher("semantic_mse_cosine")),
        "semantic_cosine": lambda seen: _cosine(*seen.beside_teacher("semantic_mse_cosine")),
        "pooled_mse": lambda seen: F.mse_loss(*seen.beside_teacher("semantic_pooled")),
        "pooled_cosine": lambda seen: _cosine(*seen.beside_teacher("semantic_pooled")),
        **{f"{s}_indices": lambda seen, s=s: seen.output.quantized.indices[s] for s in STREAMS.values()},
        **{f"{s}_commitment": lambda seen, s=s: seen.streams[s].losses["commit"] for s in STREAMS.values()},
        **{f"quantizer_{t}.codebook_after": lambda seen, s=s: seen.book(s).codebook for t, s in STREAMS.items()},
        **{f"quantizer_{t}.cluster_size_after": lambda seen, s=s: seen.book(s).counts for t, s in STREAMS.items()},
    },
    chance={"revive_below": 0.0, "revive_below_tokens": None, "start_counts": None},  # no restarts in it
    update=lambda folder, config: _middle_of_epoch(folder, updates_an_epoch=39062),  # of 10 M images
)
STEPS["unitok"] = StoredStep(
    reader="unitok",
    experiment="unitok",
    outputs={
        "clip_image_features": lambda seen: F.normalize(seen.output.heads["semantic"], dim=-1),
        "contrastive_loss": raw("clip_infonce"),
        "gradient_norm_reconstruction": lambda seen: seen.training.adversary.adaptive.norms[0],
        "gradient_norm_gan": lambda seen: seen.training.adversary.adaptive.norms[1],
        "discriminator.hinge": lambda seen: seen.raw["gan_discriminator"] * 2,  # not halved there
        **{f"usage_after.{book}": lambda seen, book=book: _shares(seen, book) for book in range(64)},
        **QUANTIZER,
    },
    update=lambda folder, config: _all_ramps_over(config) if "discriminator_optimizer" in folder else 0,
    beside={"logit_scale": "clip_infonce.log_scale"},
    as_stored={"tokenizer.encoder.tower.positions": "zero there, and frozen"},
)


def _middle_of_epoch(folder: Settings, *, updates_an_epoch: int) -> int:
    """`update` says "epoch N, ..."; without one, before the first."""
    said = re.search(r"epoch (\d+)", str(folder.get("update", "")))
    return int((int(said[1]) + 0.5) * updates_an_epoch) if said else 0


def _all_ramps_over(config: Settings) -> int:
    """The first update after the warm-up of the discriminator and the fading of its augmentation's blur."""
    adversary = config["adversary"]
    augment = adversary["discriminator"].get("augment") or {}
    return int(adversary["start"]) + max(int(adversary["ramp"]), int(augment.get("blur_updates", 0)))


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.cosine_similarity(ours, theirs, dim=-1).mean()


def _shares(seen: Seen, book: int) -> Tensor:
    """Of the batch's tokens, by code."""
    indices = seen.output.quantized.indices["main"]
    if book >= indices.shape[-1]:
        raise KeyError(book)
    size = seen.training.tokenizer.quantizer.vocabulary[book]
    return torch.bincount(indices[..., book].flatten(), minlength=size) / indices[..., book].numel()


def _perceptual(seen: Seen) -> Tensor:
    """Mean of the perceptual networks, by their own weights 1 and 0.1: without the weight of the whole."""
    shares = {"lpips": 1.0, "convnext": 0.1}
    there = {name: share for name, share in shares.items() if name in seen.raw}
    return sum((share * seen.raw[name] for name, share in there.items()), start=seen.zero) / sum(there.values())


def _usage_shares(quantizer: Any) -> Tensor:
    """Of all tokens there, of an even spread here."""
    return quantizer.revival.usage / len(quantizer.revival.usage)


def step_of(system: str) -> StoredStep:
    if system not in STEPS:
        raise UserError(
            f"system {system!r} has no experiment to compare its training with; {did_you_mean(system, STEPS)}"
        )
    return STEPS[system]
