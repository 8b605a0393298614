"""What every metric has from its base class, shown by the smallest one; and what each tells tables and protocols."""

import inspect
import pickle
import warnings
import weakref

import pytest
import torch

from imtok.eval import metrics
from imtok.eval.metrics import L1, Kid, LpipsAlex, MeanOverImages, Psnr, Quantity, extractor
from imtok.eval.metrics.base import Measured, Metric, Row, as_bytes, base_of, headline, is_random
from imtok.eval.protocol import Protocol


class Contrast(MeanOverImages):
    quantities = {"contrast": Quantity("Contrast", better="higher")}

    def per_image(self, reference: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
        return reconstruction.double().flatten(1).std(1) / reference.double().flatten(1).std(1)


def images(count: int = 4, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 256, (2, count, 3, size, size), generator=generator, dtype=torch.uint8)
    return a, b // 2


def test_a_mean_over_images_is_a_number_and_an_entry() -> None:
    a, b = images()
    metric = Contrast()
    metric.update(a[:3], b[:3])
    metric.update(a[3:], b[3:])
    expected = float((b.double().flatten(1).std(1) / a.double().flatten(1).std(1)).mean())
    assert float(metric.compute()) == pytest.approx(expected) and metric.compute().dtype == torch.float64
    assert metric.result() == metric.curve_numbers() == {"contrast": pytest.approx(expected)}
    assert metric.entries(Measured((8, 8))) == metric.result() and metric.main_key == "contrast"
    assert metric.start((1, 1), ()) is None and metric.warnings({}) == metric.words() == metric.describe(None) == []
    with pytest.raises(AssertionError, match="need a network"):
        metric.prepare(torch.device("cpu"))


def test_a_row_has_four_decimals_a_title_and_its_mark() -> None:
    rows = list(Contrast.rows({"contrast": 0.123456, "contrast[rand-1]@9": {"mean": 2.0}, "other": 3.0}))
    assert rows == [
        Row("Perceptual", "Contrast", "0.1235", "higher", "", False),
        Row("Perceptual", "Contrast [rand-1]@9", "2.0000", "higher", "", True),
    ]
    [named] = Contrast.rows({"contrast": {"value": 1.0, "label": "as named"}})
    assert named.name == "as named"
    assert Row("a", "b", "c") == Row("a", "b", "c", "", "", False) and not Measured((1, 1)).whole_set
    assert Quantity("x") == Quantity("x", "", "", 4, 4)


def test_a_key_without_its_mark_and_the_one_number_of_an_entry() -> None:
    assert [base_of(k) for k in ("rfid", "fid[a@b]@5", "kid@12")] == ["rfid", "fid", "kid"]
    assert [headline(x) for x in (1, {"mean": 2}, {"value": 3, "mean": 4})] == [1, 2, 3]
    assert is_random("fid[randconv-64]@5") and is_random("dists[random]") and not is_random("fid[1234abcd]")


SHOWN = {
    "psnr": ("Pixels", {"psnr": ("higher", "30.123 dB", 2)}),
    "ssim": ("Pixels", {"ssim": ("higher", "30.1235", 4)}),
    "ms_ssim": ("Pixels", {"ms_ssim": ("higher", "30.1235", 4)}),
    "l1": ("Pixels", {"l1": ("lower", "30.12346", 4)}),
    "lpips_vgg": ("Perceptual", {"lpips_vgg": ("lower", "30.1235", 4)}),
    "lpips_alex": ("Perceptual", {"lpips_alex": ("lower", "30.1235", 4)}),
    "dists": ("Perceptual", {"dists": ("lower", "30.1235", 4)}),
    "rfid": ("Perceptual", dict.fromkeys(("rfid", "rFID", "fid"), ("lower", "30.1235", 2))),
    "teacher_fd": ("Perceptual", {"fd": ("lower", "30.1235", 2)}),
    "kid": ("Perceptual", {"kid": ("lower", "30.123456", 5)}),
    "inception_score": ("Perceptual", {"inception_score": ("higher", "30.123", 4)}),
    "precision_recall": ("Perceptual", dict.fromkeys(("precision", "recall"), ("higher", "30.1235", 4))),
    "codebook": (
        "Codes",
        {
            "usage": ("higher", "30.1235", 4),
            "perplexity": ("higher", "30.1", 4),
            "code_entropy_bits": ("", "30.123 bits", 4),
        },
    ),
}


def shipped() -> dict[str, Metric]:
    from imtok.eval.metrics.registry import build_metric, names_in

    return {name: build_metric(name, Protocol()) for name in names_in("metric")}


def test_how_each_shipped_metric_is_shown() -> None:
    found = shipped()
    assert set(found) == set(SHOWN)
    for name, metric in found.items():
        group, quantities = SHOWN[name]
        shown = {
            key: (q.better, f"{30.1234561:.{q.decimals}f} {q.unit}".rstrip(), q.curve_decimals)
            for key, q in metric.quantities.items()
        }
        assert (metric.group, shown) == (group, quantities), name
        if name != "codebook":
            better = {q.better for q in metric.quantities.values()}
            assert better == {"higher" if metric.higher_is_better else "lower"}, name


def test_what_each_shipped_metric_takes_part_in() -> None:
    found = shipped()
    assert not any(m.full_state_update or m.is_differentiable for m in found.values())
    assert {name for name, m in found.items() if not m.on_curve} == {"codebook", "inception_score"}
    sets = {"rfid", "kid", "inception_score", "precision_recall", "teacher_fd"}
    assert {name for name, m in found.items() if m.of_sets} == sets
    assert {name for name, m in found.items() if m.needs is not None} == sets | {"lpips_vgg", "lpips_alex", "dists"}
    assert found["inception_score"].keeps_rows is False and found["kid"].keeps_rows is True


@pytest.mark.parametrize(
    ("metric", "published"),
    [
        ("Kid", {"subsets": 100, "subset_size": 1000, "seed": 0}),
        ("PrecisionRecall", {"k": 3}),
        ("InceptionScore", {"splits": 10, "seed": 0}),
        ("Psnr", {"cap": 100.0}),
        ("Ssim", {"kind": "gaussian11", "data_range": 255.0}),
        ("LpipsVgg", {"weights": "pretrained"}),
        ("Dists", {"weights": "pretrained"}),
        ("TeacherFrechet", {"teacher": "dinov2_b", "weights": "pretrained", "image_size": 224, "small": False}),
        ("extractor", {"name": "inception-2015", "pixels": "uint8", "resize": "tf1_bilinear", "weights": "pretrained"}),
    ],
)
def test_defaults(metric: str, published: dict) -> None:
    found = inspect.signature(getattr(metrics, metric)).parameters
    assert {name: found[name].default for name in published} == published


def test_a_name_that_is_no_metric() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Fid'; it has .*Kid"):
        metrics.Fid  # noqa: B018
    assert not hasattr(metrics, "_nothing") and metrics.Metric is Metric


def test_a_process_without_images_joins_without_a_warning() -> None:
    a, b = images()
    alone = L1()
    alone.update(a, b)
    expected = alone.result()["l1"]

    def gather(x: torch.Tensor, group: object) -> list[torch.Tensor]:
        theirs = alone.rows_of("l1_values")
        assert x.shape == (0,) and x.dtype == theirs.dtype
        return [x, theirs]

    empty = L1(dist_sync_fn=gather, distributed_available_fn=lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert empty.result()["l1"] == expected


def test_images_of_every_process_are_joined_with_ones_own() -> None:
    a, b = images()
    first, whole = L1(), L1()
    first.update(a[:1], b[:1])
    whole.update(a, b)
    theirs = first.rows_of("l1_values")
    second = L1(dist_sync_fn=lambda x, group: [theirs, x], distributed_available_fn=lambda: True)
    second.update(a[1:], b[1:])
    assert second.result()["l1"] == pytest.approx(whole.result()["l1"], rel=1e-12)


def test_a_network_is_kept_where_the_metric_stays_and_built_anew_where_it_goes() -> None:
    metric = Kid(extractor=extractor("randconv-64"))
    seen = weakref.ref(metric.network)
    metric.to("cpu")
    metric.eval()
    assert seen() is not None and metric.network is seen()
    metric.to("meta")
    assert next(metric.network.module.buffers()).device.type == "meta"


def test_a_pickled_metric_goes_without_its_network() -> None:
    a, b = images()
    metric = Kid(extractor=extractor("randconv-64"), subsets=2, subset_size=3)
    metric.update(a, b)
    again = pickle.loads(pickle.dumps(metric))
    assert len(pickle.dumps(metric)) < 20_000  # the network alone has 61,000 weights
    assert again.result() == metric.result()


def test_floats_are_rounded_and_bytes_stay() -> None:
    a, _ = images()
    assert as_bytes(a) is a
    assert as_bytes(torch.tensor([-1.0, 0.003, 1.0, 9.0])).tolist() == [0, 128, 255, 255]


def test_a_collection_keeps_metrics_of_equal_states_apart() -> None:
    a, b = images()
    first, second = Psnr(), L1()
    assert not set(first._defaults) & set(second._defaults)
    assert LpipsAlex(weights="random").values == "lpips_alex_values"
    first.update(a, b)
    assert first.last.shape == (4,)
