"""A stranger's checkpoint has overrides.yaml beside it; what it may make a training do."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imtok.common.errors import UserError
from imtok.training.resume import arguments_for_resume

HOSTILE = [
    "+callbacks.x={_target_: subprocess.Popen, args: [touch, PROGRAM_RAN]}",
    "+callbacks.x._target_=subprocess.Popen",
    "++callbacks={x: {_target_: subprocess.Popen, args: [touch, PROGRAM_RAN]}}",
    "+callbacks.x[_target_]=subprocess.Popen",
    "+logger.x={_target_: subprocess.Popen, args: [touch, PROGRAM_RAN]}",
    "+loss.x.term={_target_: subprocess.Popen, args: [touch, PROGRAM_RAN]}",
    "+x._target_=subprocess.Popen",
    "tokenizer.encoder._target_=torch.nn.Linear",
    "tokenizer.encoder._target_=imtok.tokenizers.hub.os.system",
    "tokenizer.encoder._target_=imtok.tokenizers.tokenizer.nn.Linear",
    "tokenizer.encoder._target_=imtok.no.such.Class",
    "+callbacks.x._target_=${a}.Popen",
    "+callbacks.x={tiny: {_target_: subprocess.Popen}}",
    "+debug.sets={callbacks.x._target_: subprocess.Popen}",
    "+a=${oc.env:HOME}",
    r"+a=$\{oc.env\:HOME\}",
    "+a='${oc.decode:\"{b: 1}\"}'",
    "+a=[1, {b: '${oc.env:HOME}'}]",
    "hydra.searchpath=[/tmp]",
    "hydra/launcher=x",
    "hydra.run.dir.x=3",
    "+x@hydra.launcher=y",
    "--config-dir=/tmp",
    "-cd=/tmp",
    "experiment=../../evil",
    "experiment=/tmp/evil",
    "+callbacks=[progress, ../../evil]",
    "+../x=y",
    "tokenizer.encoder.model_args.cache_dir=/tmp",
    "+tokenizer.encoder.model_args={pretrained_cfg: {url: 'http://127.0.0.1/x'}}",
    "+e={model_args: {checkpoint_path: x}}",
    "+tokenizer.encoder.model_args=${e}",
    "optimizer.lr=1,2",
    "a={",
]
HARMLESS = [
    "experiment=titok_b64/stage1",
    "data=folder",
    "data.root='/some/where/..'",
    "init_from=../tokenizer",
    "loss=[l1,l2]",
    "loss.l1.weight=0.5",
    "~callbacks.samples",
    "tokenizer/quantizer=fsq",
    "tokenizer.quantizer._target_=imtok.tokenizers.quantizers.vq.VQ",
    "+logger.w={_target_: lightning.pytorch.loggers.wandb.WandbLogger, project: p}",
    "logger=[csv,tensorboard]",
    "+tokenizer.encoder.model_args={img_size: '${data.image_size}', depth: 2}",
    "optimizer.betas=[0.9,0.99]",
    "tokenizer.image_size=${data.image_size}",
]


def a_run(folder: Path, overrides: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    file = folder / "checkpoints" / "last.ckpt"
    file.write_bytes(b"x")
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    return file


@pytest.mark.parametrize("override", HOSTILE)
@pytest.mark.parametrize("by_last", [False, True], ids=["file", "last"])
def test_a_record_that_runs_code_is_refused_by_name(tmp_path, override: str, by_last: bool) -> None:
    file = a_run(tmp_path / "run", ["seed=3", override])
    given = ["ckpt_path=last", f"hydra.run.dir={tmp_path / 'run'}"] if by_last else [f"ckpt_path={file}"]
    with pytest.raises(UserError, match="trust=true") as caught:
        arguments_for_resume(given)
    assert override[:60] in str(caught.value) and "seed" not in str(caught.value)


def test_a_setting_given_again_does_not_lift_what_kept_the_rest_in_check(tmp_path) -> None:
    file = a_run(tmp_path / "run", [HOSTILE[0], "~callbacks"])
    with pytest.raises(UserError, match="trust=true"):
        arguments_for_resume([f"ckpt_path={file}", "callbacks=[progress]"])


def test_what_is_harmless_is_taken_over_and_said_in_one_line(tmp_path, capsys) -> None:
    file = a_run(tmp_path / "run", [*HARMLESS, "seed=3", "ckpt_path=x", "trust=true"])
    found = arguments_for_resume([f"ckpt_path={file}", "seed=4"])
    assert found == [*HARMLESS, "seed=4", f"ckpt_path='{file}'"]
    [line] = capsys.readouterr().out.splitlines()
    assert "taken over" in line and all(override in line for override in HARMLESS) and "seed=" not in line


@pytest.mark.parametrize("override", [HOSTILE[0], "+a=${oc.env:HOME}"])
def test_trust_is_the_users_to_give_and_no_setting_of_the_run(tmp_path, override: str) -> None:
    file = a_run(tmp_path / "run", [override, "trust=true"])
    assert arguments_for_resume([f"ckpt_path={file}", "trust=true"]) == [override, f"ckpt_path='{file}'"]
    for given in ([], ["trust=false"]):
        with pytest.raises(UserError, match="trust=true"):
            arguments_for_resume([f"ckpt_path={file}", *given])
    with pytest.raises(UserError, match="trust=1: true or false"):
        arguments_for_resume([f"ckpt_path={file}", "trust=1"])
    assert arguments_for_resume(["seed=1", "trust=true"]) == ["seed=1"]


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system [x]", "a: 1", "[", "text"])
def test_a_damaged_record_is_one_line(tmp_path, text: str) -> None:
    file = a_run(tmp_path / "run", [])
    (tmp_path / "run" / "overrides.yaml").write_text(text)
    with pytest.raises(UserError, match=r"overrides\.yaml is damaged"):
        arguments_for_resume([f"ckpt_path={file}"])


def test_the_terminal_shows_no_control_characters(tmp_path, capsys) -> None:
    file = a_run(tmp_path / "run", ["+note='a\x1b[2Jb'"])
    arguments_for_resume([f"ckpt_path={file}"])
    assert "\x1b" not in capsys.readouterr().out


def test_the_command_refuses_before_anything_runs(tmp_path) -> None:
    program_ran = tmp_path / "program_ran"
    file = a_run(tmp_path / "run", [HOSTILE[0].replace("PROGRAM_RAN", str(program_ran))])
    words = [f"ckpt_path={file}", "debug=tiny", f"hydra.run.dir={tmp_path / 'new'}"]
    command = [sys.executable, "-m", "imtok.scripts.cli", "train", *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and not program_ran.exists() and not (tmp_path / "new").exists()
    [line] = ended.stderr.splitlines()
    assert "subprocess.Popen" in line and "trust=true" in line
