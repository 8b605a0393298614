"""Rows and facts of both reports, word by word, from a small evaluation whose entries are then varied."""

import copy

import pytest
from fake_tokenizer import FakeTokenizer, batches_of, pictures

from imtok.eval.evaluate import evaluate
from imtok.eval.metrics.registry import metric_class
from imtok.eval.protocol import Protocol
from imtok.eval.report.markdown import markdown_report
from imtok.eval.report.rows import data_name, facts, metric_rows

NUMBER = {
    "probe": "knn",
    "name": "k-NN",
    "value": 0.4567,
    "stream": "main",
    "through_quantizer": True,
    "n": 1234,
    "fitted_on": 5678,
    "chance": 0.25,
    "protocol": "by cosine",
    "random_weights": False,
}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict:
    protocol = Protocol(
        extractor="randconv-64", metrics=("codebook", "rfid", "lpips_alex", "psnr"), lpips_alex="random"
    )
    return evaluate(
        FakeTokenizer(),
        batches_of(pictures(4)),
        protocol=protocol,
        out_dir=tmp_path_factory.mktemp("out"),
        data_facts={"name": "folder", "root": "/data/holiday", "count": 12345, "shuffled": True, "ratio": 0.5},
        progress=False,
    )


@pytest.fixture
def results(evaluated: dict) -> dict:
    return copy.deepcopy(evaluated)


def test_groups_stand_in_one_order_whatever_was_asked_for_first(results: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    results["meaning"] = [NUMBER]
    distance = metric_class("rfid", Protocol.of_results(results))
    monkeypatch.setattr(distance, "group", "Faces")  # a group that imtok does not know, of somebody's own metric
    groups = list(dict.fromkeys(row.group for row in metric_rows(results)))
    assert groups == ["Pixels", "Perceptual", "Faces", "Codes", "Rate", "Meaning"]


def test_rows_of_probes(results: dict) -> None:
    cosine = NUMBER | {"probe": "teacher_cosine", "name": "Cosine", "through_quantizer": None, "random_weights": True}
    zero = NUMBER | {"fitted_on": None, "chance": 0.0, "through_quantizer": False}
    results["meaning"] = [NUMBER, cosine | {"chance": None}, zero]
    knn, cosine, zero = (row for row in metric_rows(results) if row.group == "Meaning")
    assert (knn.name, knn.value, knn.better, knn.random) == ("k-NN (main, quantized)", "45.7%", "higher", False)
    assert knn.note == "1,234 held out, fitted on 5,678, chance 25.0%; by cosine"
    assert (cosine.name, cosine.value, cosine.random) == ("Cosine (main, inner features)", "0.4567", True)
    assert cosine.note == "1,234 held out, fitted on 5,678; by cosine"
    assert (zero.name, zero.note) == ("k-NN (main, before quantization)", "1,234 held out, chance 0.0%; by cosine")


def test_a_folder_is_called_by_its_own_name() -> None:
    assert data_name({"name": "folder", "root": "/a/holiday"}) == "folder holiday"
    assert data_name({"name": "folder", "root": None}) == data_name({"name": "folder"}) == "folder"
    assert data_name({"name": "imagenet", "root": "/a/holiday"}) == "imagenet"
    assert data_name({}) == "unnamed data"


def test_facts_of_model_and_data(results: dict) -> None:
    results["model"] |= {
        "parameters": 12345,
        "parameters_by_part": {"encoder": 9876},
        "parts": {"encoder": "CNNEncoder"},
        "decoder_facts": {"steps": 1000},
        "sizes": [1000, 2],
        "nothing": None,
        "weights_sha256": "abc",
        "extra": {"a": 1000, "b": True},
    }
    found = facts(results)
    model = dict(found["Model"])
    assert model["size"] == "32 x 32 pixels" and model["parameters"] == "12,345"
    assert model["encoder"] == "CNNEncoder, 9,876 parameters" and model["tokens per image"] == "16"
    assert model["codebook"] == "16 entries" and model["nominal bits per image"] == "64"
    assert model["decoder: steps"] == "1,000" and model["sizes"] == "1000, 2" and model["extra"] == "a 1,000, b True"
    assert not {"nothing", "class", "decoder_facts", "parts", "weights_sha256", "bits_per_image"} & set(model)
    data = dict(found["Data"])
    assert (data["count"], data["shuffled"], data["ratio"]) == ("12,345", "True", "0.5")
    assert data["images evaluated"] == "4 at 32 x 32"
    assert dict(found[f"Protocol {results['protocol']['label']}"])["pixels"].endswith("round(clip(x, 0, 1) * 255)")
    for codebook, said in (((8, 5), "8 x 5"), ((), "none, a continuous bottleneck"), (2**14, "16,384 entries")):
        results["model"]["codebook_size"] = codebook
        assert dict(facts(results)["Model"])["codebook"] == said


def test_facts_of_provenance(results: dict) -> None:
    made = results["provenance"]
    made |= {"imtok": "1.2", "git": "abc", "packages": {"torch": "2.0", "absent": None}}
    results |= {"images_per_second": 12.345, "seconds": 3.21}
    shown = dict(facts(results)["Made with"])
    assert shown["imtok"] == "1.2 (git abc)" and shown["speed"] == "12.3 images/s, 3.2 s"
    assert shown["torch"] == "2.0" and "absent" not in shown
    made["git"] = None
    assert dict(facts(results)["Made with"])["imtok"] == "1.2"


def test_markdown_has_every_section_that_has_something(results: dict) -> None:
    label = results["protocol"]["label"]
    results |= {"num_images": 50_000, "not_computed": {"kid": "a|b"}, "warnings": ["look twice"]}
    results |= {"skipped": 1000, "skipped_images": [f"file {i}" for i in range(1000)]}
    lines = markdown_report(results).splitlines()
    assert f"Protocol `{label}`, 50,000 images of folder holiday." in lines
    assert "| kid | a\\|b |" in lines and "- look twice" in lines and "## Skipped images (1,000)" in lines
    assert sum(line.startswith("- file ") for line in lines) == 50
    random = [line for line in lines if "**[random weights]**" in line]
    assert len(random) == sum(row.random for row in metric_rows(results)) == 2
    assert any(line.startswith("> **Random weights**: lpips_alex[random], randconv-64") for line in lines)
    results |= {"not_computed": {}, "warnings": [], "skipped": 0, "skipped_images": [], "random_weights": []}
    text = markdown_report(results)
    assert not any(head in text for head in ("Not computed", "Read with care", "Skipped", "> **Random"))
    assert text.endswith("\n")
