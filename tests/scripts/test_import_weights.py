"""Released checkpoints, as files of several kinds, into a folder that from_pretrained reads."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imtok.configs.errors import UserError
from imtok.scripts.import_weights import main
from imtok.tokenizers.hub import from_pretrained

FIXTURES = Path(os.environ.get("IMTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="no parity fixtures beside the clone")


@needs_fixtures
@pytest.mark.parametrize("system", ["vqgan", "llamagen_vq16"])
def test_training_checkpoint_with_other_parts(system, tmp_path, capsys):
    state = load_file(FIXTURES / system / "weights.safetensors")
    extra = "loss.discriminator.main.0.weight" if system == "vqgan" else "quantize.codebook_used"
    key = "state_dict" if system == "vqgan" else "model"
    torch.save({key: {**state, extra: torch.zeros(4)}, "global_step": 3}, tmp_path / "last.ckpt")
    words = [str(tmp_path / "last.ckpt"), "--system", system, "--out", str(tmp_path / "out"), "--image-size", "64"]
    words += ["--config", str(FIXTURES / system / "config.json")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"{len(state)} of {len(state) + 1} tensors used" in said and extra in said
    io = load_file(FIXTURES / system / "io.safetensors")
    indices = from_pretrained(tmp_path / "out").tokenize(io["image"])
    assert torch.equal(indices.flatten(), io["indices"].flatten())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["training"]["system"] == system


class Payload:
    def __reduce__(self):
        return (os.system, ("true",))


def test_a_pickle_with_code_is_refused(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(1)}, "callback": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="not allowed"):
        main([str(tmp_path / "evil.ckpt"), "--system", "vqgan", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@needs_fixtures
def test_weights_of_another_family_are_refused(tmp_path):
    words = [str(FIXTURES / "llamagen_vq16" / "weights.safetensors"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="not of the family"):
        main([*words, "--system", "vqgan"])
    with pytest.raises(UserError, match="did you mean 'llamagen_vq16'"):
        main([*words, "--system", "llamagen_vq15"])


def test_list_and_missing_words(capsys):
    assert main(["--list"]) == 0
    assert {"vqgan", "llamagen_vq16", "llamagen_vq8"} <= {
        line.split()[0] for line in capsys.readouterr().out.splitlines()
    }
    with pytest.raises(UserError, match="--system is missing"):
        main(["file.pt"])
