"""YAML files and classes of one's own, outside the clone: train, export, load, evaluate; never without trust."""

import subprocess
import sys
from pathlib import Path

import pytest

import imtok
from imtok.common.errors import UserError
from imtok.scripts import cli

PACKAGE = '''\
"""Somebody's package."""
from .parts import MyVQ
'''
PARTS = """\
from imtok.tokenizers.quantizers.vq import VQ

class MyVQ(VQ):
    def __init__(self, *, dim: int, codebook_size: int = 64, temper: float = 1.0) -> None:
        super().__init__(dim=dim, codebook_size=codebook_size)
        self.temper = temper
"""
MINE = """\
# @package _global_
defaults: [quickstart, override /tokenizer/quantizer: my_vq, _self_]
tokenizer: {quantizer: {temper: 2.0}}
"""
TINY = ["debug=tiny", "evaluate_after=false", "trainer.threads=1"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package, configs and a run of `imtok train --config-dir DIR experiment=mine`."""
    work = tmp_path_factory.mktemp("own")
    for name, text in {
        "own_parts/__init__.py": PACKAGE,
        "own_parts/parts.py": PARTS,
        "yaml/experiment/mine.yaml": MINE,
        "yaml/tokenizer/quantizer/my_vq.yaml": "_target_: own_parts.MyVQ\ncodebook_size: 32\ntemper: 1.0\n",
    }.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    # In a process of its own, as an installed command has not the working folder on its path.
    code = "import sys; sys.path.remove(''); from imtok.scripts.cli import main; sys.exit(main())"
    words = ["train", "--config-dir", "yaml", "experiment=mine", *TINY, "hydra.run.dir=run"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=work, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (note,) = (line for line in done.stdout.splitlines() if "trusted=[own_parts]" in line)
    assert note.startswith("imtok: note: tokenizer.quantizer is own_parts.MyVQ")
    return work


@pytest.fixture(autouse=True)
def in_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    for name in [name for name in sys.modules if name.partition(".")[0] == "own_parts"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("trusted", [["own_parts"], "own_parts", ("other", "own_parts.parts", "own_parts")])
def test_the_export_loads_for_those_who_trust_the_package(trusted: list[str] | str) -> None:
    tokenizer = imtok.from_pretrained("run", trusted=trusted)
    assert type(tokenizer.quantizer).__module__ == "own_parts.parts" and tokenizer.quantizer.temper == 2.0
    assert tokenizer.codebook_size == 32


@pytest.mark.parametrize("trusted", [(), [], "", ["own"], ["own_parts.other"], ["parts"]])
def test_and_for_nobody_else(trusted: list[str] | str) -> None:
    with pytest.raises(UserError, match=r"^tokenizer\.quantizer\._target_=own_parts\.MyVQ: .*trusted=\[own_parts\]"):
        imtok.from_pretrained("run", trusted=trusted)
    assert "own_parts" not in sys.modules


@pytest.mark.parametrize("wrong", ["../own_parts", "own parts/", ["os.system('x')"]])
def test_what_is_trusted_is_a_package(wrong: list[str] | str) -> None:
    with pytest.raises(UserError, match="the name of a package"):
        imtok.from_pretrained("run", trusted=wrong)


def test_trust_is_in_a_package_and_not_in_its_imports() -> None:
    """own_parts.parts.VQ is imtok's, and sys.modules of a trusted package reaches everything."""
    config = Path("run/tokenizer/config.json")
    text = config.read_text()
    try:
        for target in ("own_parts.parts.VQ.__init__", "own_parts.parts.torch", "own_parts.parts.nowhere"):
            config.write_text(text.replace("own_parts.MyVQ", target))
            with pytest.raises(UserError, match=r"tokenizer\.quantizer\._target_"):
                imtok.from_pretrained("run", trusted=["own_parts"])
    finally:
        config.write_text(text)


def test_every_command_takes_the_model_and_the_trust_in_both_spellings(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ["debug=tiny", "protocol=mini", "data.num_workers=0"]
    commands = [
        (["encode", "run/samples", "--out", f"{tmp_path}/tokens"], "flags"),
        (["decode", f"{tmp_path}/tokens", f"out={tmp_path}/images"], "settings"),
        (["export", "run", "--out", f"{tmp_path}/export", "--check"], "trust"),
        (["evaluate", *quiet, f"out={tmp_path}/report"], "flags"),
        (["evaluate", *quiet, f"out={tmp_path}/report"], "settings"),
    ]
    for words, spelling in commands:
        model = {"flags": ["--model", "run"], "settings": ["model=run"], "trust": []}[spelling]
        device = {"flags": ["--device=cpu"], "settings": ["device=cpu"], "trust": []}[spelling]
        trust = ["trusted=[own_parts]"] if spelling == "settings" else ["--trust", "own_parts"]
        with pytest.raises(SystemExit):
            cli.main([*words, *model, *device])
        refused = capsys.readouterr().err.strip()
        assert refused.count("\n") == 0 and "trusted=[own_parts] or --trust own_parts" in refused
        assert cli.main([*words, *model, *device, *trust]) == 0, words
        capsys.readouterr()
    for made in ("tokens/index.json", "images/decoded.json", "export/config.json", "report/metrics.json"):
        assert (tmp_path / made).is_file()
