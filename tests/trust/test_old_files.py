"""Exports and checkpoints of an earlier imtok (assets/before_rooms) load, decode, resume and start new runs as then."""

import lzma
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from imtok import from_pretrained
from imtok.common.pixels import to_model_range
from imtok.configs.compose import compose_config
from imtok.eval.probes.alignment import load_alignment
from imtok.scripts.export import main as export
from imtok.training import checkpoint
from imtok.training.resume import arguments_for_resume, recorded_overrides
from imtok.training.run import run

FOLDER = Path(__file__).parents[1] / "assets" / "before_rooms"
NAMES = ("dual", "flow", "grid")


@pytest.fixture(params=NAMES)
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run folder, its checkpoint unpacked."""
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / request.param
    shutil.copytree(FOLDER / request.param, folder)
    packed = folder / "checkpoints" / "last.ckpt.xz"
    packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    return folder


def train(words: list[str], folder: Path) -> dict:
    """`imtok train WORDS`; returns its last checkpoint."""
    words = arguments_for_resume([*words, "evaluate_after=false"])
    assert run(compose_config("train", words), overrides=words, folder=folder) == 0
    return checkpoint.read(folder / "checkpoints" / "last.ckpt")


def test_all_folders_are_tested() -> None:
    assert sorted(path.name for path in FOLDER.iterdir() if path.is_dir()) == list(NAMES)


def test_export_gives_the_same_indices_and_pictures(old: Path) -> None:
    tokenizer, expected = from_pretrained(old / "tokenizer"), np.load(old / "expected.npz")
    with torch.inference_mode():
        indices = tokenizer.tokenize(to_model_range(torch.from_numpy(expected["images"])))
        pictures = tokenizer.detokenize(torch.from_numpy(expected["indices.main"]).long())
    np.testing.assert_array_equal(indices.numpy(), expected["indices.main"])
    np.testing.assert_allclose(pictures.numpy(), expected["pictures"], rtol=0, atol=1e-4)


def test_alignment_loads() -> None:
    folder = FOLDER / "dual" / "tokenizer"
    found = load_alignment(folder, from_pretrained(folder))
    assert set(found.terms) == {"semantic_cosine"} and not found.missing
    assert list(found.terms["semantic_cosine"].projectors) == ["tokens", "pooled"]


def test_checkpoint_goes_on(old: Path, tmp_path: Path) -> None:
    file = old / "checkpoints" / "last.ckpt"
    before = checkpoint.read(file)
    after = train([f"ckpt_path={file}", "trainer.max_updates=4"], tmp_path / "on")
    assert (before["update"], after["update"], after["skipped_updates"]) == (2, 4, 0)
    assert after["samples"] == 2 * before["samples"]
    moments = [next(iter(state["steppers"]["generator"]["optimizer"]["state"].values())) for state in (before, after)]
    assert [float(moment["step"]) for moment in moments] == [2, 4], "the optimizer's state was taken over"


def test_checkpoint_exports_to_the_same_weights(old: Path, tmp_path: Path) -> None:
    assert export([str(old), "--out", str(tmp_path / "again")]) == 0
    again, expected = tmp_path / "again", old / "tokenizer"
    files = sorted(path.relative_to(expected) for path in expected.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(again) for path in again.rglob("*.safetensors"))
    for file in files:
        actual, wanted = load_file(again / file), load_file(expected / file)
        assert actual.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(actual[name], wanted[name], rtol=0, atol=0, msg=name)


def test_init_from_starts_at_the_exported_weights(old: Path, tmp_path: Path) -> None:
    words = recorded_overrides(old / "checkpoints" / "last.ckpt")
    still = ["optimizer.lr=1e-30", "trainer.ema=null"]  # Adam's updates vanish; what is left is what was loaded
    state = train([*words, f"init_from={old / 'tokenizer'}", *still], tmp_path / "new")
    for name, exported in from_pretrained(old / "tokenizer").named_parameters():
        torch.testing.assert_close(state["tokenizer"][name], exported.data, msg=name)
