"""The last number that every setting takes, and the first that it refuses, by name."""

from typing import Any

import pytest

from imtok.common.build import build
from imtok.common.errors import UserError

HOME = "imtok.tokenizers.quantizers"
MILLI = 1e-3
VQ = {"_target_": f"{HOME}.vq.VQ"}
# class: {setting: (values that it takes, values that it refuses)}; a dict's further settings go with the first.
LIMITS: dict[str, list[tuple[str, tuple, tuple, dict[str, Any]]]] = {
    "bernoulli.Bernoulli": [
        ("bits", (1, 62), (0, 63), {}),
        ("bits", (4, 124), (126,), {"groups": 2}),
        ("groups", (1, 2, 16), (0, 3), {}),
        ("temperature", (MILLI,), (0.0,), {}),
    ],
    "bsq.BSQ": [
        ("bits", (1, 62), (0,), {}),
        ("groups", (1, 9), (0, 4), {}),
        ("temperature", (MILLI,), (0.0,), {}),
        ("entropy_group_bits", (1, 18), (0, 5, 36), {"bits": 36}),
        ("sample_weight", (0.0,), (-MILLI,), {}),
        ("batch_weight", (0.0,), (-MILLI,), {}),
    ],
    "lfq.LFQ": [
        ("bits", (1, 18), (0, 2**16 + 1), {}),
        ("groups", (1, 2), (0, 3), {"bits": 8}),
        ("groups", (2,), (1,), {"bits": 124, "entropy_group_bits": 2}),
        ("temperature", (MILLI,), (0.0,), {}),
        ("sample_weight", (0.0,), (-MILLI,), {}),
    ],
    "grouped_lfq.GroupedLFQ": [("groups", (2, 4), (1,), {"bits": 36}), ("groups", (1, 4), (0, 3), {"bits": 8})],
    "ema_vq.EmaVQ": [
        ("decay", (0.0, 0.999), (-MILLI, 1.0), {}),
        ("revive_below", (0.0, 0.999), (-MILLI, 1.0), {}),
        ("usage_decay", (0.0, 0.999), (-MILLI, 1.0), {}),
        ("codebook_size", (2,), (1,), {}),
        ("code_dim", (1,), (0, 2**16 + 1), {"codebook_size": 2}),
        ("revive_below_tokens", (0.0, 2.0), (-MILLI,), {}),
        ("start_counts", (0.0, 2.0), (-MILLI,), {}),
        ("revive_below_tokens", (0.0,), (MILLI,), {"revive_below": MILLI}),
        ("entropy_temperature", (MILLI,), (0.0,), {}),
    ],
    "vq.VQ": [
        ("codebook_size", (2,), (1,), {}),
        ("revive_below", (0.0,), (MILLI,), {"reset": "clustering"}),
        ("usage_start", (0.0, 2.0), (-MILLI,), {}),
    ],
    "optvq.OptVQ": [("sharpness", (MILLI,), (0.0,), {}), ("rounds", (1,), (0,), {})],
    "ibq.IBQ": [
        ("temperature", (MILLI,), (0.0,), {}),
        ("entropy_temperature", (MILLI, None), (0.0,), {}),
        ("codebook_size", (2,), (1,), {}),
    ],
    "gumbel_vq.GumbelVQ": [
        ("temperature", (MILLI,), (0.0,), {}),
        ("temperature_end", (MILLI,), (0.0,), {"temperature_updates": 1}),
        ("temperature_updates", (0,), (-1, 1), {}),
        ("temperature_end", (None,), (0.5,), {}),
    ],
    "library_vq.LibraryVQ": [
        ("decay", (0.0, 0.999), (-MILLI, 1.0), {}),
        ("revive_below_tokens", (0.0,), (-MILLI,), {}),
    ],
    "hierarchical_vq.HierarchicalVQ": [
        ("code_dim", (2,), (1,), {}),
        ("semantic_size", (2,), (1,), {}),
        ("sub_size", (2,), (1,), {}),
    ],
    "fsq.FSQ": [
        ("levels", ([2], [2**16], [2**15] * 4), ([], [1], [2**16 + 1], [2**16] * 4), {}),
        ("groups", (1, 2**15), (0, 2**15 + 1), {"levels": [3, 3]}),
    ],
    "gaussian_scalar.GaussianScalar": [
        ("bits", (1, 16), (0, 17), {}),
        ("range", (MILLI,), (0.0,), {}),
        ("std_range", (MILLI,), (0.0,), {}),
        ("follow", (0.0, 0.999), (-MILLI, 1.0), {}),
    ],
    "kl.KL": [("latent_dim", (1, 2**16), (0, 2**16 + 1), {}), ("latent_dim", (None, 4), (3,), {"project": False})],
    "multi_codebook.MultiCodebook": [
        ("codebooks", (1, 8), (0, 3), {"codebook_size": 4}),
        ("projection_heads", (1,), (0,), {"codebook_size": 4, "projection": "attention", "code_dim": 16}),
        ("projection_std", (MILLI, None), (0.0,), {"codebook_size": 4}),
    ],
    "multi_scale_vq.MultiScaleVQ": [
        ("scales", ([1], [2, 2, 3]), ([], [0, 1], [2, 1]), {"codebook_size": 4}),
        ("phi_convs", (0, 64), (-1, 65), {"codebook_size": 4}),
        ("phi_ratio", (0.0, 1.0), (-MILLI, 1 + MILLI), {"codebook_size": 4}),
        ("quantizer_dropout", (0.0, 1.0), (-MILLI, 1 + MILLI), {"codebook_size": 4}),
        ("least_stages", (1, 2), (0, 3), {"codebook_size": 4, "scales": [1, 2]}),
    ],
    "multi_scale_bsq.MultiScaleBSQ": [("bits", (1, 62), (0, 63), {}), ("scale", (MILLI,), (0.0,), {})],
    "residual_vq.ResidualVQ": [
        ("stages", (1, 1024), (0, 1025), {"codebook_size": 2, "shared": True}),
        ("least_stages", (1, 4), (0, 5), {"codebook_size": 4}),
        ("start_counts", (None,), (1.0,), {"codebook_size": 4}),
        ("revive_below_tokens", (None,), (1.0,), {"codebook_size": 4}),
    ],
    "product_vq.ProductQuantizer": [("parts", (1, 2, 8), (0, 3), {"part": VQ})],
    "pca_vq.PCAVQ": [("components", (1, 8, None), (0, 9), {}), ("fit_updates", (0,), (-1,), {})],
    "perturbed.PerturbedVQ": [
        ("share", (0.0, 1.0), (-MILLI, 1 + MILLI), {}),
        ("chance", (0.0, 1.0), (-MILLI, 1 + MILLI), {}),
        ("end_ratio", (0.0, 1.0), (-MILLI, 1 + MILLI), {}),
        ("nearest", (1, 128), (0, 129), {"codebook_size": 128}),
        ("anneal", ([0, 1], None), ([-1, 1], [1, 1], [1], [0, 1, 2]), {}),
    ],
    "joint_vq.JointVQ": [
        ("pixel_weight", (MILLI,), (0.0,), {}),
        ("scale_dropout", (0.0, 1.0), (-MILLI, 1 + MILLI), {}),
        ("entropy_temperature", (MILLI, None), (0.0,), {}),
        ("scales", ([1], None), ([], [0, 1], [2, 1]), {}),
        ("codebook_size", (2,), (1,), {}),
    ],
}
CHOICES = {
    "bernoulli.Bernoulli": ["sample"],
    "bsq.BSQ": ["gradient", "over_groups", "order"],
    "lfq.LFQ": ["log_rule", "entropy_form", "order"],
    "grouped_lfq.GroupedLFQ": ["over_groups"],
    "vq.VQ": ["reset", "init"],
    "ema_vq.EmaVQ": ["init"],
    "multi_codebook.MultiCodebook": ["projection", "init"],
    "multi_scale_vq.MultiScaleVQ": ["commit_reduction", "init"],
    "residual_vq.ResidualVQ": ["update"],
    "pca_vq.PCAVQ": ["weighting"],
}
CASES = [(kind, *case) for kind, cases in LIMITS.items() for case in cases]


@pytest.mark.parametrize(("kind", "key", "taken", "refused", "others"), CASES)
def test_limits(kind: str, key: str, taken: tuple, refused: tuple, others: dict[str, Any]) -> None:
    dim = {"semantic": 8, "pixel": 8} if "Joint" in kind else 8
    for value in taken:
        build({"_target_": f"{HOME}.{kind}", **others, key: value}, key="q", dim=dim)
    for value in refused:
        with pytest.raises(UserError, match=rf"^q\.{key}="):
            build({"_target_": f"{HOME}.{kind}", **others, key: value}, key="q", dim=dim)


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in CHOICES.items() for key in keys])
def test_an_unknown_choice_lists_the_known_ones(kind: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^q\.{key}=other: .* one of \w+, "):
        build({"_target_": f"{HOME}.{kind}", key: "other"}, key="q", dim=8)
