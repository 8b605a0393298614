"""Stored training steps of the reference code: one update, built from the experiment's YAML, has the same numbers."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from imtok.common.errors import UserError
from imtok.parity.proven import TRAINING_STEP, folder_of
from imtok.parity.training_config import StepConfig, step_config
from imtok.parity.training_folders import STEPS, step_of
from imtok.scripts.parity import check, main
from imtok.scripts.recipes import experiment_files, name_of

FOLDERS = Path(os.environ.get("IMTOK_PARITY_TRAINING", Path(__file__).parents[3] / "shared" / "parity_training"))
needs_folders = pytest.mark.skipif(not FOLDERS.is_dir(), reason=f"no stored training steps at {FOLDERS}")
QUICK = ("ibq", "titok_stage1")


def some_slow(names, quick):
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


@needs_folders
@pytest.mark.parametrize("system", some_slow(STEPS, QUICK))
def test_a_stored_training_step_holds(system):
    result = check(FOLDERS / system)
    assert result.ok and len(result.rows) > 30, [row for row in result.rows if not row.ok]
    assert result.shows == {"forward": True, "objective": True, "optimizer": True}
    assert not result.unused_weights


@pytest.mark.slow
@needs_folders
def test_another_recipe_of_the_same_network_fails(capsys):
    """The deeper of VQGAN's two has GAN weight 0.75 from the first update on, this folder's 0.8."""
    result = check(FOLDERS / "vqgan", experiment="vqgan_f16_16384")
    failed = {row.output for row in result.rows if not row.ok}
    assert {"total", "adaptive_weight", "grad_norm"} <= failed
    assert not failed & {"reconstruction", "nll_loss", "quantizer_loss", "discriminator.total", "optimizer.lr"}
    assert result.shows["forward"] and not result.shows["objective"]


@needs_folders
def test_another_optimizer_in_the_folder_fails(tmp_path):
    """What the folder says of the optimizer is compared, never taken over."""
    folder = shutil.copytree(FOLDERS / "titok_stage1", tmp_path / "titok_stage1")
    os.chmod(folder, 0o755)
    config = json.loads((folder / "config.json").read_text())
    config["optimizer"] |= {"betas": [0.9, 0.999], "weight_decay": 0.0, "clip_norm": None}
    config["not_decayed"].pop()
    rewrite(folder / "config.json", json.dumps(config))
    result = check(folder)
    failed = {row.output for row in result.rows if not row.ok}
    assert failed == {f"optimizer.{name}" for name in ("betas", "weight_decay", "clip_norm", "not_decayed")}
    assert result.shows == {"forward": True, "objective": True, "optimizer": False}


@needs_folders
def test_some_outputs_alone_and_without_the_file_of_rounding(tmp_path):
    folder = shutil.copytree(FOLDERS / "titok_stage1", tmp_path / "some_other_name")
    io = load_file(folder / "io.safetensors")
    kept = {"image", "proxy_codes", "total", "grad_norms", "grad.latent_tokens", "change2.encoder.conv_out.bias"}
    (folder / "io.safetensors").unlink()
    save_file({name: io[name] for name in kept}, folder / "io.safetensors")
    assert main([str(folder)]) == 0
    (folder / "io.safetensors").unlink()
    save_file({name: io[name] * (1.01 if name == "total" else 1) for name in kept}, folder / "io.safetensors")
    assert [row.output for row in check(folder).rows if not row.ok] == ["total"]


def test_a_system_without_an_experiment_is_named():
    with pytest.raises(UserError, match=r"system 'vqgam' .* did you mean 'vqgan'"):
        step_of("vqgam")


# -- experiments that are called proven by a folder, but are not the one it is compared with ---------------------------

DIFFERENT = {  # and nothing else
    "dualtoken_384": {"loss.semantic_mse_cosine.term.teacher", "loss.semantic_pooled.term.teacher"},
    "one_d_piece_l256/stage2": {"adversary.lecam.images"},
    "open_magvit2_128": {"adversary.lecam.weight"},
    "vqgan_f16_16384": {"adversary.start", "adversary.weight"},
}
OF_OTHER_TEACHERS = ("tokenflow_l", "tokenflow_xl", "unitok_clip")  # and so of other towers: the objective alone
PROVEN = [name for name in map(name_of, experiment_files()) if folder_of(name, TRAINING_STEP)]


@needs_folders
@pytest.mark.parametrize("name", some_slow(PROVEN, ("llamagen_vq8",)))
def test_an_experiment_that_is_called_proven_builds_the_proven_recipe(name):
    folder = FOLDERS / str(folder_of(name, TRAINING_STEP))
    given = (
        json.loads((folder / "config.json").read_text()),
        load_file(folder / "io.safetensors"),
        load_file(folder / "weights.safetensors"),
    )
    own = step_config(*given, experiment=name)
    system = str(given[0]["system"])
    ours, theirs = facts(own), facts(step_config(*given, experiment=STEPS[system].experiment))
    different = {key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)}
    if name in OF_OTHER_TEACHERS:
        different = {key for key in different if not key.startswith("tokenizer.") and not key.endswith(".teacher")}
    assert different == DIFFERENT.get(name, set())
    assert name in OF_OTHER_TEACHERS or all(row.ok for row in own.rows)


def facts(made: StepConfig) -> dict:
    config = made.config
    parts = {name: config.get(name) for name in ("tokenizer", "loss", "adversary", "optimizer", "freeze")}
    return {"clip": config["trainer"]["clip"], **dict(leaves(parts))}


def leaves(node, key=""):
    if isinstance(node, dict):
        for name, child in node.items():
            if name != "tiny":
                yield from leaves(child, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def rewrite(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)
