"""`auto` follows the hardware; what was asked for stands, with a word where it is slow."""

import json

import pytest
import torch

from imtok.common import precision
from imtok.common.build import build_as
from imtok.common.errors import UserError
from imtok.common.precision import chosen_arithmetic, device_type, has_matrix_units
from imtok.configs.compose import compose_config
from imtok.training import run_folder
from imtok.training.settings import TrainerSettings


def chosen(monkeypatch, *, units: bool, name: str = "auto", channels_last="auto") -> precision.Arithmetic:
    monkeypatch.setattr(precision, "has_matrix_units", lambda *_: units)
    return chosen_arithmetic(precision=name, channels_last=channels_last, accelerator="cpu")


def test_auto_is_bf16_and_channels_last_only_with_matrix_units(monkeypatch):
    fast, plain = chosen(monkeypatch, units=True), chosen(monkeypatch, units=False)
    assert (fast.precision, fast.channels_last) == ("bf16", True)
    assert (plain.precision, plain.channels_last) == ("fp32", False)
    assert "no bf16 matrix units" in plain.line and "slower" not in plain.line
    assert chosen(monkeypatch, units=True, name="fp32").channels_last is False
    assert chosen(monkeypatch, units=True, channels_last=False).channels_last is False


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_what_was_asked_for_stands_with_a_word_where_it_is_slow(monkeypatch, name):
    slow, fast = chosen(monkeypatch, units=False, name=name), chosen(monkeypatch, units=True, name=name)
    assert slow.precision == fast.precision == name
    assert "slower than trainer.precision=fp32" in slow.line and "slower" not in fast.line


@pytest.mark.parametrize(
    ("capability", "bf16", "fp16"), [((7, 5), False, True), ((8, 0), True, True), ((9, 0), True, True)]
)
def test_cuda_by_compute_capability(monkeypatch, capability, bf16, fp16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device_type("auto") == device_type("gpu") == "cuda" and device_type("cpu") == "cpu"
    assert (has_matrix_units("bf16", "cuda"), has_matrix_units("fp16", "cuda")) == (bf16, fp16)


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True)])
def test_tf32_is_what_a_gpu_with_its_cores_does_where_it_is_asked_for(monkeypatch, capability, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    asked = {"precision": "fp32", "channels_last": False, "accelerator": "auto"}
    on, off = chosen_arithmetic(**asked, tf32=True), chosen_arithmetic(**asked, tf32=False)
    assert (on.tf32, "TF32" in on.line) == (has, has) and not off.tf32 and "TF32" not in off.line
    assert not chosen_arithmetic(**(asked | {"accelerator": "cpu"}), tf32=True).tf32


def test_tf32_is_put_back_whatever_happens(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_float32_matmul_precision()
    for device, on, inside in (("cuda", True, "high"), ("cuda", False, "highest"), ("cpu", True, "highest")):
        with pytest.raises(RuntimeError, match="on purpose"), precision.tf32(on, torch.device(device)):  # noqa: PT012
            assert torch.get_float32_matmul_precision() == inside
            assert torch.backends.cudnn.allow_tf32 is (on or device == "cpu")
            raise RuntimeError("on purpose")
        assert torch.get_float32_matmul_precision() == before and torch.backends.cudnn.allow_tf32


def test_a_cpu_is_asked_torch_first_and_the_kernel_else(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert has_matrix_units("bf16", "cpu")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.setattr(precision.Path, "read_text", lambda self: "flags : fpu avx512_bf16 amx_bf16 amx_tile")
    assert has_matrix_units("bf16", "cpu") and not has_matrix_units("fp16", "cpu")
    monkeypatch.setattr(precision.Path, "read_text", lambda self: "flags : fpu avx512_bf16")
    assert not has_matrix_units("bf16", "cpu")


def test_auto_is_the_default_and_its_outcome_is_recorded(tmp_path):
    trainer = compose_config("train")["trainer"]
    assert trainer["precision"] == trainer["channels_last"] == "auto"
    run_folder.prepare(
        tmp_path / "run", config={"ckpt_path": None}, overrides=[], resolved={"trainer.precision": "bf16"}
    )
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert facts["resolved"] == {"trainer.precision": "bf16"}
    for name, value in {"channels_last": "maybe", "precision": "bf15"}.items():
        with pytest.raises(UserError, match=rf"trainer\.{name}={value}: TrainerSettings takes .*one of auto"):
            build_as(TrainerSettings, {"max_updates": 1, name: value}, key="trainer")


def test_plan_knows_auto(monkeypatch, capsys):
    from imtok.scripts.plan import main

    monkeypatch.setattr(precision, "has_matrix_units", lambda *_: True)
    main(["experiment=quickstart", "debug=tiny", "--json"])
    assert json.loads(capsys.readouterr().out)["precision"] == "bf16"


def test_benchmark_knows_auto(monkeypatch, capsys):
    from imtok.benchmarks.update import benchmark_train

    monkeypatch.setattr(precision, "has_matrix_units", lambda *_: False)
    benchmark_train({"rounds": "1", "compare": "false"}, ["experiment=quickstart", "debug=tiny"])
    assert "fp32, no GAN" in capsys.readouterr().out
