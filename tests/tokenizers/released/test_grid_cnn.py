"""Readers of VQGAN's and LlamaGen's weights, against their reference implementations' outputs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from imtok.common.errors import UserError
from imtok.common.weights import read as read_weights
from imtok.tokenizers import released


def read(folder):
    config = json.loads((folder / "config.json").read_text())
    return config, load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")


@pytest.mark.parametrize("system", ["vqgan", "llamagen_vq16", "llamagen_vq8"])
def test_every_output_of_the_reference(parity_folder, system: str) -> None:
    config, state, io = read(parity_folder / system)
    family = released.find(system)
    tokenizer, report = family.import_state(
        state, image_size=tuple(config["image_size"]), constructor=config["constructor"]
    )
    assert set(report.used) == set(state)
    outputs = family.outputs(tokenizer, io, config["constructor"])
    assert set(io) - {"image"} <= set(outputs)
    for name, actual in outputs.items():
        expected = io[name.split(" (")[0]]
        if expected.dtype == torch.int64:
            assert torch.equal(actual, expected), name
        else:
            scale = expected.std() if expected.numel() > 1 else expected.abs()
            assert float((actual - expected).abs().max() / scale) <= 1e-4, name


@pytest.mark.parametrize("system", ["vqgan", "llamagen_vq16"])
def test_training_checkpoints_lose_only_what_is_known(parity_folder, tmp_path, system: str) -> None:
    _, state, _ = read(parity_folder / system)
    extra = {"vqgan": "loss.discriminator.main.0.weight", "llamagen_vq16": "quantize.codebook_used"}[system]
    wrapped = {"vqgan": "state_dict", "llamagen_vq16": "model"}[system]
    torch.save({wrapped: {**state, extra: torch.zeros(3)}, "steps": 5}, tmp_path / "last.ckpt")
    _, report = released.find(system).import_state(read_weights(tmp_path / "last.ckpt"), image_size=64)
    assert report.ignored == [extra]
    assert len(report.used) == len(state)


def test_wrong_files_are_refused_by_name(parity_folder, tmp_path) -> None:
    _, state, _ = read(parity_folder / "vqgan")
    family = released.find("vqgan")
    with pytest.raises(UserError, match=r"1 unexpected: encoder.surprise"):
        family.import_state({**state, "encoder.surprise": torch.zeros(1)}, image_size=64)
    short = dict(state)
    del short["decoder.mid.attn_1.q.weight"]
    with pytest.raises(UserError, match=r"1 missing: decoder.middle.1.q.weight"):
        family.import_state(short, image_size=64)
    with pytest.raises(UserError, match="not of the family"):
        family.import_state({"backbone.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="did you mean 'vqgan'"):
        released.find("vqgann")
    save_file(state, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:999])
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(tmp_path / "cut.safetensors")


class Malicious:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickles_never_run_code(tmp_path, capsys) -> None:
    torch.save({"model": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="not allowed"):
        read_weights(tmp_path / "evil.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_text_file_is_no_checkpoint(tmp_path, name: str) -> None:
    (tmp_path / name).write_text("hello\n")  # torch's old reader fails with a KeyError on it
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(tmp_path / name)
