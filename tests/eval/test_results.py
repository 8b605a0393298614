"""metrics.json: warnings, marks and reasons, and what is refused before and after the pass."""

import json
import math

import pytest
import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures

from imtok.common.errors import UserError
from imtok.eval.evaluate import evaluate
from imtok.eval.metrics.chosen import ChosenMetrics
from imtok.eval.probes.measure import Meaning
from imtok.eval.protocol import Protocol
from imtok.eval.results import add_meaning, check_required, check_writable, require_present, write_json

PROTOCOL = Protocol(metrics=("psnr", "lpips_alex"), probes=("knn", "zero_shot"))


def test_images_of_another_crop_are_a_warning(tmp_path) -> None:
    def said(**facts) -> str:
        given = {"protocol": Protocol(metrics=("l1",)), "out_dir": tmp_path, "progress": False}
        return " ".join(evaluate(FakeTokenizer(), batches_of(pictures(2)), data_facts=facts, **given)["warnings"])

    assert "prepared by an unnamed crop, not by the protocol's ADM centre crop" in said()
    assert "prepared by centre crop (bicubic), not" in said(val_crop="centre crop (bicubic)")
    assert "prepared by" not in said(val_crop="adm centre crop 256")


def test_probes_by_random_weights_are_named_and_absent_ones_explained_where_asked_for() -> None:
    numbers = [{"name": "a", "random_weights": True}, {"name": "b", "random_weights": False}]
    for protocol, absent in ((PROTOCOL, {"kid": "few", "knn": "no labels"}), (Protocol(), {"kid": "few"})):
        results = {"random_weights": ["network"], "not_computed": {"kid": "few"}}
        add_meaning(results, Meaning(numbers, {"knn": "no labels"}), protocol)
        assert results == {"random_weights": ["network", "a"], "not_computed": absent, "meaning": numbers}
    empty = {"random_weights": [], "not_computed": {}}
    add_meaning(empty, Meaning(), PROTOCOL)
    assert "meaning" not in empty


def test_what_is_required_must_be_asked_for_and_there(tmp_path) -> None:
    check_required(["psnr", "zero_shot"], PROTOCOL)
    for name in ("rfid", "linear_probe", "psnrs"):
        with pytest.raises(UserError, match=f"^require={name}: not in protocol.metrics or protocol.probes; "):
            check_required([name], PROTOCOL)
    with pytest.raises(UserError, match=r"did you mean 'psnr'\?"):
        check_required(["psnrs"], PROTOCOL)
    metrics = ChosenMetrics(Protocol(metrics=("psnr", "lpips_alex"), lpips_alex="random"), device=torch.device("cpu"))
    results = {
        "psnr": {},
        "lpips_alex[random]": 1.0,
        "meaning": [{"probe": "knn"}],
        "not_computed": {"zero_shot": "why"},
    }
    require_present(["psnr", "knn"], results, metrics, out_dir=tmp_path)
    for name, reason in (("lpips_alex", "its network has random weights"), ("zero_shot", "why")):
        with pytest.raises(UserError, match=f"^require={name}: not computed: {reason}; .*report.html"):
            require_present(["psnr", name], results, metrics, out_dir=tmp_path)
    with pytest.raises(UserError, match="require=knn: not computed"):
        require_present(["knn"], {"not_computed": {}}, metrics, out_dir=tmp_path)


def test_metrics_json_is_whole_and_holds_numbers_only(tmp_path) -> None:
    file = tmp_path / "metrics.json"
    write_json({"a": {"b": [1.5]}}, file)
    assert json.loads(file.read_text()) == {"a": {"b": [1.5]}} and file.read_text().endswith("}\n")
    with pytest.raises(ValueError, match="JSON"):
        write_json({"a": math.nan}, file)
    assert json.loads(file.read_text()) == {"a": {"b": [1.5]}}


def test_a_folder_is_tried_and_left_as_it_was(tmp_path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError) as error:
        check_writable(tmp_path / "file")
    assert error.value.filename == str(tmp_path / "file")
