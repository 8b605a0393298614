"""Which experiment a stored training step belongs to, and which of our numbers its outputs are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F

from ..common.errors import UserError, did_you_mean
from .training_terms import (
    Settings,
    Value,
    all_ramps_over,
    beside_teacher,
    cosine,
    finished,
    middle_of_epoch,
    of_stream,
    one_less,
    perceptual,
    raw,
    shares_of_book,
    usage_shares,
    weighted,
)


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
    update: Callable[[Settings, Settings], int] = finished
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
    "llamagen_vq": StoredStep(reader="llamagen_vq16", experiment="llamagen_vq16", outputs=L2, update=one_less),
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
        update=one_less,
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
        update=one_less,
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
    update=one_less,
    constant=STEPS["gigatok"].constant,
)

TITOK = {
    "reconstruction_loss": lambda seen: seen.raw["proxy_codes"] if "proxy_codes" in seen.raw else seen.weighted("l2"),
    "proxy_logits": lambda seen: seen.output.features["proxy_logits"].transpose(1, 2),
    "convnext": raw("convnext"),
    "perceptual_loss": weighted("lpips", "convnext"),
    "perceptual": perceptual,
    "kl_loss": weighted("kl"),
    "kl": raw("kl"),
    "discriminator.lecam": lambda seen: seen.adversary.lecam.weight * seen.raw["lecam"],
    "codebook_after_forward": lambda seen: seen.before["generator"]["quantizer.codebook"],
    "usage_after_forward": usage_shares,
    **QUANTIZER,
}
PROXY = ("decoder.codebook", "decoder.pixels.")
for family, reader, s in (("titok", "titok", "titok_b64"), ("one_d_piece", "one_d_piece", "one_d_piece_s256")):
    STEPS[f"{family}_stage1"] = StoredStep(reader=reader, experiment=f"{s}/stage1", outputs=TITOK, not_stored=PROXY)
    STEPS[f"{family}_stage2"] = StoredStep(reader=reader, experiment=f"{s}/stage2", outputs=TITOK)
STEPS["ta_titok_vq"] = StoredStep(reader="ta_titok", experiment="ta_titok_bl64_vq", outputs=TITOK)
STEPS["titok_vae"] = StoredStep(reader="titok_single_stage", experiment="titok_bl64_vae", outputs=TITOK)

XQGAN = {**L2, "semantic_loss": weighted("semantic_infonce")}
STEPS["imagefolder"] = StoredStep(reader="imagefolder", experiment="imagefolder", outputs=XQGAN, update=one_less)
STEPS["xqgan_vq"] = StoredStep(reader="xqgan_vq", experiment="xqgan_vq_4096", outputs=XQGAN, update=one_less)

STREAMS = {"pix": "pixel", "sem": "semantic"}
STEPS["dualtoken"] = StoredStep(
    reader="dualtoken",
    experiment="dualtoken_256",
    outputs={
        "pooled": lambda seen: seen.output.heads["semantic"],
        "semantic_tokens": lambda seen: seen.output.features["heads.semantic.expand"],
        "semantic_mse": beside_teacher("semantic_mse_cosine", F.mse_loss),
        "semantic_cosine": beside_teacher("semantic_mse_cosine", cosine),
        "pooled_mse": beside_teacher("semantic_pooled", F.mse_loss),
        "pooled_cosine": beside_teacher("semantic_pooled", cosine),
        **{f"{ours}_indices": of_stream(ours, "indices") for ours in STREAMS.values()},
        **{f"{ours}_commitment": of_stream(ours, "commit") for ours in STREAMS.values()},
        **{f"quantizer_{theirs}.codebook_after": of_stream(ours, "codebook") for theirs, ours in STREAMS.items()},
        **{f"quantizer_{theirs}.cluster_size_after": of_stream(ours, "counts") for theirs, ours in STREAMS.items()},
    },
    chance={"revive_below": 0.0, "revive_below_tokens": None, "start_counts": None},  # no restarts in it
    update=middle_of_epoch(39062),  # of 10 M images
)
STEPS["unitok"] = StoredStep(
    reader="unitok",
    experiment="unitok",
    outputs={
        "clip_image_features": lambda seen: F.normalize(seen.output.heads["semantic"], dim=-1),
        "contrastive_loss": raw("clip_infonce"),
        "gradient_norm_reconstruction": lambda seen: seen.adversary.adaptive.norms[0],
        "gradient_norm_gan": lambda seen: seen.adversary.adaptive.norms[1],
        "discriminator.hinge": lambda seen: seen.raw["gan_discriminator"] * 2,  # not halved there
        **{f"usage_after.{book}": shares_of_book(book) for book in range(64)},
        **QUANTIZER,
    },
    update=all_ramps_over,
    beside={"logit_scale": "clip_infonce.log_scale"},
    as_stored={"tokenizer.encoder.tower.positions": "zero there, and frozen"},
)


def step_of(system: str) -> StoredStep:
    if system not in STEPS:
        raise UserError(
            f"system {system!r} has no experiment to compare its training with; {did_you_mean(system, STEPS)}"
        )
    return STEPS[system]
