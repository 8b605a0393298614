"""Probes inside `evaluate`: metrics.json, the report's rows, what is required and what is explained."""

import json

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.eval.evaluate import evaluate
from imtok.eval.probes.measure import MeaningData
from imtok.eval.protocol import Protocol
from imtok.eval.report.rows import metric_rows

COLOURS = torch.tensor([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]])


def batches(count: int) -> list[dict]:
    labels = torch.arange(count) % 2
    noise = 0.3 * torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
    image = (COLOURS[labels][:, :, None, None] * 0.7 + noise).clamp(-1, 1)
    return [{"image": image, "label": labels, "key": [f"{i:03d}" for i in range(count)]}]


def results_of(tokenizer_node, folder, probes="auto", require=(), **data) -> dict:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    held_out = batches(12)
    return evaluate(
        tokenizer,
        held_out,
        protocol=Protocol(metrics=("psnr",), probes=probes),
        out_dir=folder,
        data_facts={"name": "walls"},
        require=require,
        progress=False,
        meaning=MeaningData(**{"fit": batches(40), "held_out": held_out, "class_names": ("red", "green")} | data),
    )


def test_numbers_and_rows(tokenizer_node, tmp_path) -> None:
    results = results_of(tokenizer_node, tmp_path, require=("linear_probe",))
    assert json.loads((tmp_path / "metrics.json").read_text())["meaning"] == results["meaning"]
    rows = {row.name: row for row in metric_rows(results) if row.group == "Meaning"}
    assert set(rows) == {
        f"{probe} (main, {path})" for probe in ("Linear probe", "k-NN") for path in ("quantized", "before quantization")
    }
    note = rows["Linear probe (main, quantized)"].note
    assert "12 held out" in note and "fitted on 40" in note and "chance 50.0%" in note
    assert "Linear probe (main, quantized)" in (tmp_path / "report.md").read_text()
    assert not results["not_computed"], "what `auto` leaves out needs no apology"


def test_asked_for_by_name_and_not_there(tokenizer_node, tmp_path) -> None:
    results = results_of(tokenizer_node, tmp_path, probes=("zero_shot", "knn"))
    assert {n["probe"] for n in results["meaning"]} == {"knn"}
    assert "alignment/" in results["not_computed"]["zero_shot"]
    with pytest.raises(UserError, match=r"require=zero_shot: not computed: no alignment/"):
        results_of(tokenizer_node, tmp_path, probes=("zero_shot",), require=("zero_shot",))
    assert "meaning" not in results_of(tokenizer_node, tmp_path, probes="none")
    with pytest.raises(UserError, match="require=knn: not in"):
        results_of(tokenizer_node, tmp_path, probes="none", require=("knn",))


def test_probes_are_named_in_the_protocol_but_change_no_hash() -> None:
    assert Protocol(probes=("knn",), probe_images=7).hash == Protocol().hash
    with pytest.raises(UserError, match=r"no probe 'linear'; did you mean 'linear_probe'\?"):
        Protocol(probes=("linear",))
    with pytest.raises(UserError, match=r"protocol\.probes=some: auto, none"):
        Protocol(probes="some")
