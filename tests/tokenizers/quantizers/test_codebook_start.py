"""Where codebooks start: closed forms of the distributions, and every recipe's own."""

import math
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from imtok.common.build import build
from imtok.configs.compose import compose_config
from imtok.tokenizers.quantizers.shared.codebook_start import CodebookStart, codebook_start

SIZE, WIDTH = 4096, 8


def spread(codes: Tensor) -> tuple[float, float, float]:
    """(largest entry, root mean square of the entries, how much the lengths of the codes differ)."""
    codes = codes.double()
    lengths = codes.norm(dim=1)
    return float(codes.abs().max()), float(codes.square().mean().sqrt()), float(lengths.std() / lengths.mean())


def is_uniform(codes: Tensor, most: float) -> bool:
    largest, rms, _ = spread(codes)
    return most * 0.99 < largest <= most * (1 + 1e-6) and math.isclose(rms, most / 3**0.5, rel_tol=0.02)


def is_unit(codes: Tensor) -> bool:
    return bool(torch.allclose(codes.norm(dim=1), torch.ones(len(codes)), atol=1e-5))


def is_normal(codes: Tensor, deviation: float) -> bool:
    largest, rms, _ = spread(codes)
    kurtosis = float((codes.double() / deviation).pow(4).mean())
    return (
        math.isclose(rms, deviation, rel_tol=0.02)
        and largest > 3 * deviation
        and math.isclose(kurtosis, 3, rel_tol=0.1)
    )


CHECKS = {
    "uniform": lambda codes: is_uniform(codes, 1 / len(codes)),
    "uniform_unit": is_unit,
    "uniform_width": lambda codes: is_uniform(codes, codes.shape[1] ** -0.5 / 36),
    "normal": lambda codes: is_normal(codes, 1.0),
    "normal_unit": is_unit,
    "normal_width": lambda codes: is_normal(codes, codes.shape[1] ** -0.5),
}


@pytest.mark.parametrize("kind", get_args(CodebookStart))
def test_closed_forms(kind: CodebookStart) -> None:
    codes = codebook_start(kind, codebook_size=SIZE, width=WIDTH)
    assert codes.shape == (SIZE, WIDTH)
    assert CHECKS[kind](codes)
    # A cube has corners, so that its directions are not even: the fourth moment of unit vectors tells the two apart.
    fourth = float(torch.nn.functional.normalize(codes, dim=1).double().pow(4).mean()) * WIDTH**2
    expected = 3 * WIDTH / (WIDTH + 2) if kind.startswith("normal") else 1.80  # of the cube, by 4e6 draws
    assert math.isclose(fourth, expected, rel_tol=0.03)


# From the training code of taming-transformers, 1d-tokenizer, One-D-Piece, LlamaGen, GigaTok, ImageFolder, TokenFlow,
# UniTok, SEED-Voken, DualToken and ILLUME+.
RECIPES = {
    "vqgan_f16_1024": ("uniform", ["codebook"]),
    "vqgan_f16_16384": ("uniform", ["codebook"]),
    "titok_s128/stage1": ("uniform", ["codebook"]),
    "titok_b64/stage1": ("uniform", ["codebook"]),
    "titok_l32/stage1": ("uniform", ["codebook"]),
    "one_d_piece_b256/stage1": ("uniform", ["codebook"]),
    "one_d_piece_s256/stage1": ("uniform", ["codebook"]),
    "titok_bl64_vq": ("uniform", ["codebook"]),
    "ta_titok_bl32_vq": ("uniform", ["codebook"]),
    "llamagen_vq16": ("uniform_unit", ["codebook"]),
    "gigatok_bl": ("uniform_unit", ["codebook"]),
    "xqgan_vq_4096": ("uniform_unit", ["codebook"]),
    "xqgan_vp2_4096": ("uniform_unit", ["parts.0.codebook", "parts.1.codebook"]),
    "robusttok": ("uniform_unit", ["codebook"]),
    "imagefolder": ("uniform_unit", ["parts.0.codebook", "parts.1.codebook"]),
    "xqgan_msvr10p2_8192": ("uniform_unit", ["parts.0.codebook", "parts.1.codebook"]),
    "xqgan_msvr10p2_16384": ("uniform_unit", ["parts.0.codebook", "parts.1.codebook"]),
    "tokenflow_b": ("uniform_unit", ["codebooks.semantic", "codebooks.pixel"]),
    "unitok": ("uniform_width", [f"books.{n}.codebook" for n in range(8)]),
    "ibq_16384": ("normal", ["codebook"]),
    "dualtoken_256": ("normal", [f"quantizers.{s}.books.0.codebook" for s in ("semantic", "pixel")]),
    "dualvitok_256": ("normal_width", ["quantizers.semantic.frozen", "quantizers.pixel.frozen"]),
}
WIDTHS: dict[str, Any] = {
    "unitok": 1024,
    "tokenflow_b": {"semantic": 32, "pixel": 8},
    "dualtoken_256": {"semantic": 32, "pixel": 32},
    "dualvitok_256": {"semantic": 32, "pixel": 32},
}


def quantizer_of(experiment: str) -> Any:
    config = compose_config("train", [f"experiment={experiment}"])["tokenizer"]
    dim = WIDTHS.get(experiment) or config["encoder"]["dim"]
    return build(config["quantizer"], key="tokenizer.quantizer", dim=dim)


LIKE = ("vqgan_f16_16384", "titok_l32/stage1", "titok_b64/stage1", "one_d_piece_s256/stage1", "titok_bl64_vq")
LIKE += ("xqgan_msvr10p2_16384", "xqgan_vp2_4096")  # sizes of others


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=pytest.mark.slow) if name in LIKE else name for name in RECIPES]
)
def test_every_recipe_starts_as_its_reference(experiment: str) -> None:
    kind, names = RECIPES[experiment]
    state = quantizer_of(experiment).state_dict()
    assert sorted(name for name in state if name.endswith(("codebook", "frozen")) or "codebooks." in name) == sorted(
        names
    )
    for name in names:
        assert CHECKS[kind](state[name]), (name, spread(state[name]))


def test_counts_start_from_nothing_where_the_reference_does() -> None:
    """So that the first update puts unused codes on vectors of the batch."""
    clustering = quantizer_of("titok_bl64_vq")
    assert clustering.reset == "clustering"
    assert float(clustering.revival.usage.abs().sum()) == 0
    for experiment in ("dualtoken_256", "dualtoken_384"):
        WIDTHS[experiment] = WIDTHS["dualtoken_256"]
        for quantizer in quantizer_of(experiment).quantizers.values():
            assert [book.revive_below_tokens for book in quantizer.books] == [1.0]
            assert float(quantizer.books[0].counts.abs().sum()) == 0
            assert torch.equal(quantizer.books[0].sums, quantizer.books[0].codebook)
    assert not any(book.revival.counts for book in quantizer_of("unitok").books)  # it has no revival
