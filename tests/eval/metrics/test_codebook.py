"""Known answers."""

import math

import pytest
import torch

from imtok.common.types import IndexSegment
from imtok.eval.metrics.codebook import Codebook, expected_distinct


def statistics(ids: torch.Tensor, entries: int) -> dict:
    """ids [B, M] of one codebook."""
    found = Codebook(layout=[IndexSegment("main", ids.shape[1], (entries,))])
    found.update(indices={"main": ids[..., None]})
    return found.result()


def test_a_uniform_stream() -> None:
    result = statistics(torch.arange(64).repeat(4, 1), 64)
    assert result["usage"] == 1 and result["perplexity"] == pytest.approx(64)
    book = result["codebooks"]["main"]
    assert book["entropy_bits"] == pytest.approx(6) and book["dead"] == 0
    assert book["top_1_percent_mass"] == pytest.approx(1 / 64)
    assert book["entropy_bits_by_position"] == [0.0] * 64, "each position always says the same"


def test_a_skewed_stream_with_dead_codes() -> None:
    ids = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]])
    book = statistics(ids, 8)["codebooks"]["main"]
    assert (book["used"], book["dead"], book["usage"]) == (3, 5, 3 / 8)
    assert book["entropy_bits"] == pytest.approx(1.5)
    assert book["sorted_counts"][0] == [1, 4] and book["sorted_counts"][-1] == [3, 2]
    assert not book["enough_tokens"]


def test_usage_is_held_against_what_uniform_draws_would_reach() -> None:
    ids = torch.randint(0, 4096, (100, 16), generator=torch.Generator().manual_seed(0))
    book = statistics(ids, 4096)["codebooks"]["main"]
    assert book["usage"] < 0.35
    assert book["usage_over_uniform_ceiling"] == pytest.approx(1, abs=0.03)
    assert expected_distinct(65_536, 25_600) / 65_536 == pytest.approx(0.323, abs=5e-4)  # the sheet's table


def test_masked_tokens_are_not_counted() -> None:
    ids = torch.tensor([[0, 1, -1, -1], [1, 0, 1, -1]])
    found = Codebook(layout=[IndexSegment("main", 4, (2,))])
    found.update(indices={"main": ids[..., None]})
    facts = found.result()
    assert facts["codebooks"]["main"]["tokens"] == 5
    costs = found.rate(pixels=64)
    assert costs["tokens"] == 2.5 and costs["bits_per_image"] == 2.5 and costs["bits_per_pixel"] == 2.5 / 64


def test_an_implicit_codebook_is_never_a_histogram() -> None:
    ids = torch.tensor([[2**60, 5, 5, 2**59], [2**60, 5, 5, 2**59]])
    left, right = (Codebook(layout=[IndexSegment("main", 4, (2**61,))]) for _ in range(2))
    left.update(indices={"main": ids[:1, :, None]})
    right.update(indices={"main": ids[1:, :, None]})
    left.merge_state(right)
    facts = left.result()["codebooks"]["main"]
    assert not hasattr(left, "bins_0")
    assert (facts["used"], facts["tokens"]) == (3, 8) and facts["entropy_bits"] == pytest.approx(1.5)
    assert facts["uniform_ceiling"] == pytest.approx(8 / 2**61)


def test_a_large_codebook_with_many_positions_gives_up_positions_only() -> None:
    facts = statistics(torch.arange(64).repeat(2, 1), 2**20)["codebooks"]["main"]
    assert "entropy_bits_by_position" not in facts and facts["used"] == 64


def test_scales_share_their_codebook_and_parallel_ones_do_not() -> None:
    layout = [IndexSegment("main", 1, (4, 8), scale=0), IndexSegment("main", 4, (4, 8), scale=1)]
    found = Codebook(layout=layout)
    indices = torch.stack([torch.tensor([[0, 1, 2, 3, 0]]), torch.tensor([[7, 7, 7, 7, 7]])], -1)
    found.update(indices={"main": indices})
    facts = found.result()
    assert facts["codebooks"]["main[0]"]["usage"] == 1 and facts["codebooks"]["main[1]"]["usage"] == 1 / 8
    assert facts["usage"] == pytest.approx((1 + 1 / 8) / 2)
    costs = found.rate(pixels=256)
    assert costs["bits_per_image"] == pytest.approx(5 * (2 + 3)) and costs["bits_per_token"] == pytest.approx(5)


def test_two_streams_and_two_shards() -> None:
    layout = [IndexSegment("semantic", 2, (4,)), IndexSegment("pixel", 3, (16,))]
    generator = torch.Generator().manual_seed(0)
    given = {
        "semantic": torch.randint(0, 4, (6, 2, 1), generator=generator),
        "pixel": torch.randint(0, 16, (6, 3, 1), generator=generator),
    }
    whole, left, right = (Codebook(layout=layout) for _ in range(3))
    whole.update(indices=given)
    left.update(indices={k: v[:4] for k, v in given.items()})
    right.update(indices={k: v[4:] for k, v in given.items()})
    left.merge_state(right)
    assert left.result() == whole.result()
    facts = whole.result()
    costs = whole.rate(pixels=256)
    assert costs["bits_per_image"] == pytest.approx(2 * 2 + 3 * 4)
    pooled = 2 * facts["codebooks"]["semantic"]["entropy_bits"] + 3 * facts["codebooks"]["pixel"]["entropy_bits"]
    assert costs["entropy_coded_bits"] == pytest.approx(pooled)
    assert costs["entropy_coded_bits_by_position"] <= costs["entropy_coded_bits"] + 1e-3
    assert math.isfinite(costs["entropy_coded_bits_by_position"])
