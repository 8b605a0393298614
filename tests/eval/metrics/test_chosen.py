"""The metrics of a protocol: what is built, what is left out and why, and what stands in the results."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.common.types import IndexSegment
from imtok.eval.metrics.base import Measured
from imtok.eval.metrics.chosen import ChosenMetrics, collection, is_present
from imtok.eval.metrics.registry import build_metric, hashed_settings, metric_class, metric_node, names_in, yaml_of
from imtok.eval.protocol import Protocol

CPU = torch.device("cpu")


def chosen(*names: str, **settings) -> ChosenMetrics:
    protocol = Protocol(metrics=names, **{"extractor": "randconv-64", "lpips_vgg": "random"} | settings)
    return ChosenMetrics(protocol, device=CPU)


def update(found: ChosenMetrics, count: int = 6) -> None:
    a, b = torch.randint(0, 256, (2, count, 3, 16, 16), dtype=torch.uint8)
    for metric in found.collection.values():
        if "indices" not in metric.update.__code__.co_varnames:
            metric.update(a, b)


def test_networks_are_named_once_and_random_ones_are_said() -> None:
    found = chosen("l1", "kid", "rfid", "lpips_vgg")
    marked = "RANDOM weights, its numbers are marked"
    assert found.lines == [f"randconv-64: {marked}", f"lpips_vgg[random]: {marked}"]
    assert found.random == ["lpips_vgg[random]", "randconv-64"]
    assert list(found.present) == list(found.asked) == ["l1", "kid", "rfid", "lpips_vgg"] and not found.not_computed
    assert found.asked["kid"].network is found.asked["rfid"].network
    assert chosen("l1").random == []


def test_a_missing_file_leaves_out_all_that_need_it(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = chosen("kid", "rfid", "l1", extractor="inception-2015")
    assert list(found.present) == ["l1"] and set(found.not_computed) == {"kid", "rfid"}
    assert found.not_computed["kid"] == found.not_computed["rfid"]
    [line] = found.lines
    assert line.startswith("kid, rfid: left out, protocol.inception=pretrained") and "\n" not in line


def test_psnr_is_measured_whether_it_is_asked_for_or_not() -> None:
    with_it, without = chosen("psnr", "l1"), chosen("l1", psnr_cap=50.0)
    assert with_it.psnr is with_it.present["psnr"]
    assert without.psnr.cap == 50 and "psnr" not in without.present
    for found in (with_it, without):
        found.start((16, 16), ())
        assert set(found.collection.keys()) == {"l1", "psnr"}
        update(found)
        results, said = found.results(Measured((16, 16)))
        assert ("psnr" in results) is (found is with_it) and said == []


def test_what_images_or_codes_do_not_allow_is_left_out_with_its_reason() -> None:
    found = chosen("l1", "ms_ssim", "codebook", "lpips_vgg", "inception_score")
    found.start((16, 15), ())
    assert list(found.present) == ["l1"]
    assert "176 pixels" in found.not_computed["ms_ssim"] and "no indices" in found.not_computed["codebook"]
    assert "16 pixels" in found.not_computed["lpips_vgg"] and "no classes" in found.not_computed["inception_score"]
    found = chosen("codebook")
    found.start((16, 16), [IndexSegment("main", 4, (8,))])
    assert not found.not_computed and [b.name for b in found.present["codebook"].books] == ["main"]


def test_too_few_images_are_a_reason_and_the_others_have_results() -> None:
    found = chosen("kid", "l1", "rfid", settings={"kid": {"subset_size": 7}})
    found.start((16, 16), ())
    update(found, 6)
    results, said = found.results(Measured((16, 16)))
    assert set(results) == {"l1", "fid[randconv-64]@6"}
    assert found.not_computed == {"kid": "6 images are fewer than its subset_size of 7"}
    assert len(said) == 1 and "below 320 the distance" in said[0]


def test_a_curve_has_fresh_metrics_with_the_same_networks() -> None:
    found = chosen("l1", "kid", "codebook", "inception_score")
    found.start((16, 16), [IndexSegment("main", 4, (8,))])
    fresh = found.on_curve()
    assert set(fresh) == {"l1", "kid"} and fresh["l1"] is not found.present["l1"]
    assert fresh["kid"].network is found.present["kid"].network


def test_a_collection_computes_every_metric_by_itself() -> None:
    found = chosen("l1", "psnr")
    assert not collection(found.present)._enable_compute_groups


@pytest.mark.parametrize(("device", "states"), [("mps", "cpu"), ("meta", "meta"), ("cpu", "cpu")])
def test_states_are_where_float64_is(device: str, states: str) -> None:
    found = ChosenMetrics(Protocol(metrics=("l1",)), device=torch.device(device))
    assert found.states_on.type == found.asked["l1"].device.type == found.psnr.device.type == states


def test_presence_is_by_the_published_name() -> None:
    kid = build_metric("teacher_fd", Protocol())
    assert is_present(["fd[dinov2_b]@9"], kid) and is_present(["fd[dinov2_b]"], kid)
    assert not is_present(["fd[dinov2_b][random]@9", "l1"], kid)


def test_settings_of_the_protocol_lie_over_tiny_ones_and_those_over_the_yaml() -> None:
    own = {"kid": {"subsets": 9}}
    node = metric_node("kid", Protocol(metrics=("kid",), settings=own))
    assert (node["subsets"], node["subset_size"]) == (9, 1000)
    small = Protocol(metrics=("kid",), settings=own, small=True)
    assert (metric_node("kid", small)["subsets"], metric_node("kid", small)["subset_size"]) == (9, 4)
    metric = build_metric("kid", small)
    assert (metric.subsets, metric.subset_size) == (9, 4)
    assert hashed_settings("kid", small) == {"subsets": 9, "subset_size": 4, "seed": 0}
    assert hashed_settings("l1", small) == {}


def test_metrics_by_class_and_by_wrong_names() -> None:
    own = {"mine": {"_target_": "imtok.eval.metrics.l1.L1"}}
    protocol = Protocol(metrics=("mine",), settings=own)
    assert metric_class("mine", protocol).__name__ == "L1"
    with pytest.raises(UserError, match=r"settings\.mine\._target_=Identity: not a class of"):
        Protocol(metrics=("mine",), settings={"mine": {"_target_": "torch.nn.Identity"}})
    with pytest.raises(UserError, match=r"^x: no metric 'l2'; "):
        yaml_of("metric", "l2", key="x")
    assert names_in("metric") == sorted(names_in("metric")) and "l1" in names_in("metric")
    assert names_in("nothing") == []
