"""What metrics write beside their numbers: facts, notes, words, warnings, and where a set is too small."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.types import IndexSegment
from imtok.common.weights import Weights
from imtok.eval.metrics import (
    L1,
    Dists,
    InceptionScore,
    Kid,
    MsSsim,
    PrecisionRecall,
    Psnr,
    Rfid,
    Ssim,
    TeacherFrechet,
    extractor,
)
from imtok.eval.metrics import codebook as codebook_module
from imtok.eval.metrics.base import Measured, Metric, TooFewImages
from imtok.eval.metrics.codebook import Book, Codebook, books_of, expected_distinct
from imtok.eval.metrics.frechet import FeatureSet, frechet_distance, moments_of
from imtok.eval.metrics.inception import PUBLISHED, RESIZES, InceptionExtractor, inception_network
from imtok.eval.metrics.inception_score import scores, split_of
from imtok.eval.metrics.kid import kernel_distances
from imtok.eval.metrics.ms_ssim import EXPONENTS, ms_ssim_per_image
from imtok.eval.metrics.precision_recall import radii, share_within
from imtok.eval.metrics.psnr import histogram
from imtok.eval.metrics.ssim import ssim_per_image
from imtok.eval.protocol import Protocol

RANDCONV = extractor("randconv-64")


def images(count: int, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 256, (2, count, 3, size, size), generator=generator, dtype=torch.uint8)
    return a, b // 2


def updated(metric: Metric, count: int, size: int = 16) -> Metric:
    metric.update(*images(count, size))
    return metric


# -- codebook ----------------------------------------------------------------------------------------------------------


def codes(ids: torch.Tensor, *entries: int) -> Codebook:
    found = Codebook(layout=[IndexSegment("main", ids.shape[1], entries)])
    found.update(indices={"main": ids[..., None] if ids.ndim == 2 else ids})
    return found


def test_uniform_draws_reach_what_counting_says() -> None:
    for entries, draws in ((1, 5), (2, 1), (2, 3), (7, 4)):
        expected = sum(1 - (1 - 1 / entries) ** draws for _ in range(entries))
        assert expected_distinct(entries, draws) == pytest.approx(expected)


def test_a_histogram_ends_at_four_million_entries_and_positions_at_eight() -> None:
    def book(entries: int, positions: int) -> Book:
        return Book("main", "main", 0, ((0, positions),), entries)

    assert book(2**22, 1).dense and not book(2**22 + 1, 1).dense
    assert book(2**22, 2).by_position and not book(2**22, 3).by_position
    assert not book(2**22 + 1, 1).by_position and book(2**13, 1024).by_position


def test_one_percent_of_the_entries_hold_their_share_of_the_tokens() -> None:
    ids = torch.cat([torch.zeros(50), torch.ones(30), torch.arange(2, 22)]).long()[None]
    facts = [codes(ids, entries).result()["codebooks"]["main"] for entries in (64, 100, 200, 300)]
    assert [f["top_1_percent_mass"] for f in facts] == pytest.approx([0.5, 0.5, 0.8, 0.81])


def test_ten_tokens_an_entry_are_enough() -> None:
    ids = torch.arange(4).repeat(10)[None]
    assert codes(ids, 4).result()["codebooks"]["main"]["enough_tokens"]
    short = codes(ids[:, 1:], 4)
    entries = short.entries(Measured((4, 4)))
    assert not entries["codebooks"]["main"]["enough_tokens"]
    [said] = short.warnings(entries)
    assert said.startswith("usage of main: 39 tokens are fewer than 10 x 4 entries; uniform use would show 100.0%")
    assert codes(ids, 4).warnings(codes(ids, 4).entries(Measured((4, 4)))) == []


def test_entropies_by_position_by_hand() -> None:
    ids = torch.tensor([[0, 0, 1], [0, 1, 2], [0, 2, 3], [0, 3, -1]])
    found = codes(ids, 4)
    facts = found.result()["codebooks"]["main"]
    assert facts["entropy_bits_by_position"] == [0.0, 2.0, 1.585]
    once = codes(ids[1:2], 4).result()["codebooks"]["main"]  # one image: each position says one thing
    assert [str(h) for h in once["entropy_bits_by_position"]] == ["0.0"] * 3  # and not -0.0
    costs = found.rate(pixels=12)
    assert costs["tokens"] == 11 / 4 and costs["bits_per_image"] == 2 * 11 / 4 and costs["bits_per_pixel"] == 11 / 24
    pooled = -sum(n / 11 * math.log2(n / 11) for n in (5, 2, 2, 2))
    assert facts["entropy_bits"] == pytest.approx(pooled) and facts["perplexity"] == pytest.approx(2**pooled)
    assert costs["entropy_coded_bits"] == pytest.approx(pooled * 11 / 4)
    assert costs["entropy_coded_bits_per_pixel"] == pytest.approx(pooled * 11 / 48)
    assert costs["entropy_coded_bits_by_position"] == pytest.approx(2 + math.log2(3), abs=1e-4)
    one = codes(torch.tensor([[0], [1]]), 4)
    assert "entropy_bits_by_position" not in one.result()["codebooks"]["main"]
    assert "entropy_coded_bits_by_position" not in one.rate(pixels=4)


def test_the_chart_has_the_first_the_last_and_ranks_between() -> None:
    counts = torch.arange(5000, 0, -1)
    ids = torch.repeat_interleave(torch.arange(100), counts[:100] - 4890)[None]
    curve = codes(ids, 128).result()["codebooks"]["main"]["sorted_counts"]
    assert curve == [[rank, 111 - rank] for rank, _ in curve] and curve[0] == [1, 110] and curve[-1] == [100, 11]
    ranks = [r for r, _ in codebook_module._thinned(counts)]
    expected = sorted({round(10 ** (i / 255 * math.log10(5000))) for i in range(256)})
    assert len(ranks) == pytest.approx(len(expected), abs=2) and ranks[0] == 1 and ranks[-1] == 5000


def test_books_have_names_of_their_stream_number_and_column() -> None:
    layout = [
        IndexSegment("pixel", 2, (4,), scale=0),
        IndexSegment("semantic", 3, (8, 8)),
        IndexSegment("pixel", 5, (16,), scale=1),
        IndexSegment("pixel", 1, (4,), scale=2),
    ]
    found = {b.name: (b.stream, b.column, b.spans, b.entries, b.positions) for b in books_of(layout)}
    assert found == {
        "pixel.0": ("pixel", 0, ((0, 2), (7, 8)), 4, 3),
        "semantic[0]": ("semantic", 0, ((0, 3),), 8, 3),
        "semantic[1]": ("semantic", 1, ((0, 3),), 8, 3),
        "pixel.2": ("pixel", 0, ((2, 7),), 16, 5),
    }
    ids = torch.arange(8)[None, :, None]
    by_name = {b.name: b for b in books_of(layout)}
    assert by_name["pixel.0"].ids({"pixel": ids}).tolist() == [[0, 1, 7]]
    assert by_name["pixel.2"].ids({"pixel": ids}).tolist() == [[2, 3, 4, 5, 6]]


def test_ids_of_a_large_codebook_are_summed_when_they_are_many() -> None:
    found = Codebook(layout=[IndexSegment("main", 2**18, (2**40,))])
    ids = torch.arange(2**18).remainder(5)[None, :, None]
    for number in range(6):
        found.update(indices={"main": ids})
        assert sum(map(len, found.ids_0)) == (5 if number == 5 else (number + 1) * 2**18)
    facts = found.result()["codebooks"]["main"]
    assert (facts["tokens"], facts["used"]) == (6 * 2**18, 5)
    assert facts["sorted_counts"][0] == [1, 6 * 52429] and int(found.images) == 6


def test_rows_of_codebooks_and_of_the_rate() -> None:
    ids = torch.arange(64).repeat(10, 1)
    rows = list(Codebook.rows(codes(ids, 64).entries(Measured((16, 32)))))
    assert [(r.group, r.name, r.value, r.better) for r in rows] == [
        ("Codes", "Usage", "100.00%", "higher"),
        ("Codes", "Perplexity", "64.0", "higher"),
        ("Codes", "Entropy", "6.000 bits", ""),
        ("Rate", "Tokens", "64", ""),
        ("Rate", "Nominal bits", "384", "lower"),
        ("Rate", "Entropy-coded bits", "384.0", "lower"),
    ]
    assert rows[0].note == "64 of 64 entries, 0 dead; 100.0% of what 640 uniform tokens would use"
    assert rows[1].note == "the most used 1% of entries hold 1.6% of the tokens"
    assert rows[2].note == "6.00 bits if all entries were used equally"
    assert rows[3].note == "6 bits each" and rows[4].note == "0.7500 bits per pixel"
    assert rows[5].note == "0.7500 bits per pixel, ideal coder, pooled statistics"
    assert list(Codebook.rows({"l1": 1.0})) == []
    two = codes(torch.stack([ids, ids], -1), 64, 64)
    assert [r.name for r in Codebook.rows(two.entries(Measured((8, 8))))][:4] == [
        "Usage main[0]",
        "Perplexity main[0]",
        "Entropy main[0]",
        "Usage main[1]",
    ]
    assert two.main_key == "codebooks" and two.entries(Measured((8, 8)))["bits_per_image"] == 768
    assert two.measured_images == 10


# -- sets of images ----------------------------------------------------------------------------------------------------


def test_a_covariance_needs_two_images() -> None:
    one, two = (FeatureSet(torch.randn(n, 3), torch.empty(0, 5, 3)) for n in (1, 2))
    assert math.isfinite(frechet_distance(two, two))
    for pair in ((one, two), (two, one)):
        with pytest.raises(TooFewImages, match="needs two images; there is 1"):
            frechet_distance(*pair)


def test_rows_are_kept_up_to_the_width_and_folded_beyond() -> None:
    for count, rows, folded in ((64, 64, 0), (65, 0, 1), (70, 0, 1)):
        metric = updated(Rfid(extractor=RANDCONV), count)
        assert (sum(map(len, metric.reference_rows)), len(metric.reference_moments)) == (rows, folded)
        metric.update(*images(3))
        [entry] = metric.result().values()
        assert entry["n"] == count + 3
    full = FeatureSet(torch.randn(3, 3), torch.empty(0, 5, 3))
    assert full.kept() is not None and FeatureSet(torch.randn(4, 3), torch.empty(0, 5, 3)).kept() is None
    assert FeatureSet(torch.randn(1, 3), moments_of(torch.randn(5, 3))[None]).kept() is None


def test_a_rank_deficient_side_by_either_route_is_the_same() -> None:
    a, b = (torch.randn(30, 4, dtype=torch.float64) for _ in range(2))
    a, b = (torch.cat([x, x @ torch.ones(4, 2, dtype=torch.float64)], 1) for x in (a, b))
    kept = [FeatureSet(F.pad(x, (0, 40)), torch.empty(0, 48, 46)) for x in (a, b)]  # wider than many, so kept
    folded = [FeatureSet(x[:0], moments_of(x)[None]) for x in (a, b)]
    assert kept[0].kept() is not None and folded[0].kept() is None
    assert frechet_distance(*kept) == pytest.approx(frechet_distance(*folded), abs=1e-6)


def test_names_labels_and_warnings_of_frechet_distances() -> None:
    metric = updated(Rfid(extractor=RANDCONV), 6)
    [(key, entry)] = metric.entries(Measured((16, 16))).items()
    assert key == entry["label"] == "fid[randconv-64]@6"
    assert (entry["n"], entry["extractor"], entry["extractor_sha256"]) == (6, "randconv-64", None)
    [said] = metric.warnings({key: entry})
    assert said.startswith("fid[randconv-64]@6: 6 images for 64 features; below 320 the distance")
    assert metric.warnings({key: entry | {"n": 320}}) == [] and metric.warnings({key: entry | {"n": 319}})
    assert metric.curve_numbers() == {key: entry["value"]}
    assert Rfid.note({"n": 5000}) == "reference: the same 5,000 images" and Rfid.title_of("fid[x]@3") == "fid[x]@3"
    assert metric.provenance() == {"extractor": "randconv-64", "extractor_sha256": None}


class Named(Rfid):
    """Of another network by the name of the published one."""

    class Renamed:
        label, width, sha256 = "inception-2015", 64, "6726825d00"

    @property
    def extractor(self) -> object:
        return self.Renamed


def test_a_frechet_distance_is_called_rfid_for_a_whole_set_only() -> None:
    metric = Named()
    metric.reference_rows, metric.reconstruction_rows = [torch.randn(5, 64)], [torch.randn(5, 64)]
    metric._update_count = 1
    assert list(metric.entries(Measured((16, 16)))) == ["rfid"]
    assert metric.entries(Measured((16, 16)))["rfid"]["label"] == "rFID@5"
    assert metric.entries(Measured((16, 16), whole_set=True))["rfid"]["label"] == "rFID"
    assert list(metric.curve_numbers()) == ["rFID@5"]
    assert dict(metric.describe(Protocol()))["rFID"].startswith("by that name only for all 50,000 of imagenet/val, ADM")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "2048-d pool, fp32; input uint8, (x - 128) / 128, tf1 bilinear to 299"),
        ({"fid_pixels": "float", "fid_resize": "half_pixel_bilinear"}, "unrounded floats, 2x - 1, half pixel bilinear"),
        ({"extractor": "randconv-64"}, "no perceptual meaning"),
    ],
)
def test_a_protocols_features_in_words(settings: dict, says: str) -> None:
    protocol = Protocol(metrics=("kid", "precision_recall", "inception_score"), **settings)
    words = dict(protocol.describe())
    assert says in words["FID features"]
    assert words["KID"] == "cubic kernel, unbiased, 100 subsets of 1,000 by seed 0"
    assert "neighbour 3" in words["Precision and recall"] and "10 shuffled by seed 0" in words["Inception Score"]


@pytest.mark.parametrize(
    ("part", "taken", "refused"),
    [
        (Kid, {"subsets": 1}, {"subsets": 0}),
        (Kid, {"subset_size": 2}, {"subset_size": 1}),
        (PrecisionRecall, {"k": 1}, {"k": 0}),
    ],
)
def test_the_smallest_setting_is_taken_and_the_next_is_not(part: type, taken: dict, refused: dict) -> None:
    part(**taken)
    [(name, value)] = refused.items()
    with pytest.raises(ValueError, match=rf"^{name}={value}: at least {value + 1}"):
        part(**refused)


def test_a_subset_of_all_images_is_enough_and_its_spread_is_over_subsets() -> None:
    whole = updated(Kid(extractor=RANDCONV, subsets=3, subset_size=5), 5).result()["kid[randconv-64]"]
    assert whole["std"] == pytest.approx(0, abs=1e-9) and whole["n"] == 5
    several = updated(Kid(extractor=RANDCONV, subsets=3, subset_size=3), 9)
    entry = several.result()["kid[randconv-64]"]
    again = updated(Kid(extractor=RANDCONV, subsets=3, subset_size=3, seed=1), 9).result()["kid[randconv-64]"]
    assert entry["std"] > 0 and again["value"] != entry["value"]
    assert Kid.note({"std": 0.5, "subsets": 3, "subset_size": 1000, "n": 5000}) == (
        "± 0.500000 over 3 subsets of 1,000 of 5,000 images"
    )


def test_kids_spread_is_the_deviation_of_its_subsets() -> None:
    a, b = torch.randn(2, 9, 4, dtype=torch.float64)
    found = kernel_distances(a, b, subsets=4, subset_size=5, seed=0)
    assert len(found) == 4 and len(set(found.tolist())) == 4
    assert torch.equal(found, kernel_distances(a, b, subsets=4, subset_size=5, seed=0))
    metric = Kid(extractor=RANDCONV, subsets=4, subset_size=5)
    metric.update(*images(9), keys=[str(i) for i in range(9)])
    numbered = Kid(extractor=RANDCONV, subsets=4, subset_size=5)  # where nobody names them, numbers do
    x, y = images(9)
    numbered.update(x[:4], y[:4])
    numbered.update(x[4:], y[4:])
    first, second = (m.result()["kid[randconv-64]"] for m in (metric, numbered))
    assert first["value"] == pytest.approx(second["value"], rel=1e-6)
    order = metric.order[0].argsort()
    rows = [torch.cat(getattr(metric, f"{side}_rows"))[order] for side in ("reference", "reconstruction")]
    each = kernel_distances(*rows, subsets=4, subset_size=5, seed=0).numpy()
    assert first["value"] == pytest.approx(each.mean()) and first["std"] == pytest.approx(np.std(each))


def test_as_many_images_as_neighbours_are_too_few_and_one_more_is_enough() -> None:
    assert updated(PrecisionRecall(extractor=RANDCONV, k=2), 3).result()["precision[randconv-64]"]["n"] == 3
    with pytest.raises(TooFewImages, match="2 images have no 2 neighbours each"):
        updated(PrecisionRecall(extractor=RANDCONV, k=2), 2).result()
    assert PrecisionRecall.note({"n": 5000, "k": 3}) == "manifolds of 5,000 images, 3 neighbours"


def test_precision_and_recall_are_each_the_other_of_swapped_sides() -> None:
    a, b = images(12)
    forward, backward = (PrecisionRecall(extractor=RANDCONV, k=1) for _ in range(2))
    forward.update(a, b)
    backward.update(b, a)
    one, other = forward.result(), backward.result()
    assert one["precision[randconv-64]"]["value"] == other["recall[randconv-64]"]["value"]
    assert one["recall[randconv-64]"] == other["precision[randconv-64]"] and one["recall[randconv-64]"]["k"] == 1


def test_equal_features_lie_on_their_balls_of_no_width() -> None:
    rows = torch.ones(5, 3, dtype=torch.float64)
    assert share_within(rows, rows, radii(rows, 3)) == 1


def test_a_process_without_images_joins_sets_of_either_kind() -> None:
    for count in (20, 70):  # rows, and moments
        other = updated(Rfid(extractor=RANDCONV), count)
        theirs = {name: other.rows_of(name) for name in other._row_types}
        states = iter(theirs.values())

        def gather(x: torch.Tensor, group: object, states=states) -> list[torch.Tensor]:
            found = next(states)
            assert x.shape == (0, *found.shape[1:]) and x.dtype == found.dtype
            return [x, found]

        empty = Rfid(extractor=RANDCONV, dist_sync_fn=gather, distributed_available_fn=lambda: True)
        assert empty.result() == other.result()


def test_the_inception_score_of_sums_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    plogp = (p * p.log()).sum(1)

    def score(rows: list[int]) -> float:
        q = p[rows].mean(0)
        return math.exp(sum(float((p[r] * (p[r] / q).log()).sum()) for r in rows) / len(rows))

    zero = torch.zeros(1, 2, dtype=torch.float64)
    sums = torch.cat([p[:1] + p[1:2], zero, p[2:]])
    count = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
    found = scores(sums, torch.stack([plogp[:2].sum(), plogp[0] * 0, plogp[2]]), count)
    parts = [score([0, 1]), score([2])]
    assert found == {
        "value": pytest.approx(score([0, 1, 2])),
        "splits_mean": pytest.approx(np.mean(parts)),
        "splits_std": pytest.approx(np.std(parts)),
        "splits": 2,
    }
    entry = found | {"originals": {"value": 9.5}}
    assert InceptionScore.note(entry).startswith("originals 9.500; 2 shuffled splits ")
    assert {split_of(str(i), splits=3, seed=0) for i in range(50)} == {0, 1, 2}
    assert [split_of(str(i), splits=9, seed=0) for i in range(9)] != [
        split_of(str(i), splits=9, seed=1) for i in range(9)
    ]


# -- single images -----------------------------------------------------------------------------------------------------


def test_psnrs_spread_over_images() -> None:
    metric = updated(Psnr(), 11)
    metric.update(images(2)[0], images(2)[0])
    entry = metric.result()["psnr"]
    values = metric.rows_of("psnr_values").numpy()
    assert entry["deciles"] == pytest.approx([np.percentile(values, 10 * i) for i in range(1, 10)])
    assert (entry["min"], entry["max"], entry["capped"]) == (values.min(), 100.0, 2)
    assert entry["std"] == pytest.approx(np.std(values)) and len(entry["histogram"]["counts"]) == 40
    assert metric.warnings({"psnr": entry}) == ["2 identical images count as 100 dB in the PSNR mean"]
    assert metric.warnings({"psnr": entry | {"capped": 0}}) == []
    found = {"deciles": [20.0, 1, 30.456], "capped": 3}
    assert Psnr.note(found) == "deciles 1 and 9: 20.00 and 30.46 dB; 3 identical images capped"
    assert Psnr.note(found | {"capped": 0}) == "deciles 1 and 9: 20.00 and 30.46 dB"
    rows = list(Psnr.rows({"psnr": found | {"mean": 25.1234}, "psnr_mean_colour": 11.98765}))
    assert [(r.name, r.value, r.better) for r in rows] == [
        ("PSNR", "25.123 dB", "higher"),
        ("PSNR of the mean colour", "11.988 dB", ""),
    ]
    assert list(Psnr.rows({"l1": 0.5})) == [] and L1.note(0.5) == "of the full range"
    assert "identical images count 42 dB" in dict(Psnr(cap=42).words())["PSNR"]


def test_a_histograms_edges() -> None:
    wide = histogram(np.array([3.0, 3.0 + 2e-6]))
    assert wide["low"] == 3.0 and wide["high"] == 3.0 + 2e-6
    assert histogram(np.array([3.0, 3.0 + 5e-7]))["low"] == 2.5


def test_ssims_settings_and_warnings() -> None:
    with pytest.raises(ValueError, match=r"^kind=gauss: one of gaussian11, uniform7"):
        Ssim(kind="gauss")
    assert Ssim().warnings({}) == [] and len(Ssim(data_range=510).warnings({})) == 1
    assert "Gaussian 11" in Ssim().words()[0][1] and "uniform 7" in Ssim(kind="uniform7").words()[0][1]
    a, b = images(2, 11)
    assert ssim_per_image(a, b).shape == (2,) and ssim_per_image(a[..., :7], b[..., :7], kind="uniform7").shape == (2,)
    found = updated(Ssim(kind="uniform7", data_range=300.0), 2)
    x, y = images(2)
    expected = ssim_per_image(x, y, kind="uniform7", data_range=300.0).mean()
    assert found.result()["ssim"]["mean"] == pytest.approx(float(expected))


def test_ms_ssim_has_the_published_exponents() -> None:
    assert EXPONENTS == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik, section 3.2
    opposite = torch.arange(176).remainder(256).expand(1, 3, 176, 176).to(torch.uint8)
    assert ms_ssim_per_image(opposite, 255 - opposite).tolist() == [0.0]  # negative structure counts as none
    assert "these have 175" in MsSsim().start((200, 175), ())


def test_dists_marks_weights_and_says_its_input() -> None:
    metric = Dists(weights="random")
    assert metric.network.module.label == "dists[random]" and metric.network.module.source == "random"
    assert not any(p.requires_grad for p in metric.network.module.parameters())
    assert "input in [0, 1]" in metric.words()[0][1]


def test_a_large_image_reaches_inception_with_or_without_aliases() -> None:
    x = torch.rand(1, 3, 400, 350)
    for name, antialias in (("half_pixel_bilinear", False), ("antialias_bilinear", True)):
        expected = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False, antialias=antialias)
        torch.testing.assert_close(RESIZES[name](x), expected)
    tf1 = RESIZES["tf1_bilinear"](x)
    torch.testing.assert_close(tf1[..., 0, 0], x[..., 0, 0])
    place = 100 * 400 / 299  # without an offset of half a pixel
    low, part = int(place), place - int(place)
    torch.testing.assert_close(tf1[0, 0, 100, 0], (1 - part) * x[0, 0, low, 0] + part * x[0, 0, low + 1, 0])


def test_random_inception_is_kaimings_and_says_so() -> None:
    extractor = InceptionExtractor(weights="random")
    assert (extractor.label, extractor.source, extractor.sha256) == ("random-inception", "random", None)
    assert extractor.weights_are_random and not extractor.wants_floats and PUBLISHED.sha256 == "6726825d"
    assert (extractor.width, extractor.classes) == (2048, 1008) == tuple(extractor.head.weight.shape[::-1])
    network = inception_network(None)
    assert not network.fc.bias.any()
    conv = network.Mixed_7b.branch1x1.conv
    assert float(conv.weight.std()) == pytest.approx((2 / conv.in_channels) ** 0.5, rel=0.02)
    assert isinstance(extractor.trunk, nn.Sequential)
    for part, options in (
        (inception_network, {"seed": 0}),
        (InceptionExtractor, {"seed": 0, "resize": "tf1_bilinear", "pixels": "uint8", "weights": "pretrained"}),
    ):
        found = inspect.signature(part).parameters
        assert {name: found[name].default for name in options} == options


def test_the_published_file_gives_the_published_name(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(inception_network(None).state_dict(), tmp_path / "mine.pth")
    origin = Weights(source="pretrained", path=tmp_path / "mine.pth", sha256="6726825d" + "0" * 56, published=True)
    monkeypatch.setattr("imtok.eval.metrics.inception.find", lambda *_, **__: origin)
    extractor = InceptionExtractor()
    assert extractor.label == "inception-2015" and not extractor.weights_are_random
    assert extractor.source == f"{tmp_path / 'mine.pth'} (sha256 6726825d)"


def test_a_teachers_distance_names_teacher_and_weights() -> None:
    metric = TeacherFrechet(teacher="dinov2_b", weights="random", small=True, image_size=32)
    assert metric.main_key == "fd[dinov2_b]" and metric.network.module.label == "dinov2_b[random]"
    assert metric.network.module.source == "random" and metric.network.module.weights_are_random
    module = metric.network.module
    assert module.width == module.network.pooled_dim and not module.wants_floats and module.classes is None
    assert "pooled features of dinov2_b" in metric.describe(Protocol())[0][1]
