"""What travels in the wheel: imtok/... and nothing else, with every YAML and template."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

NOT_SHIPPED = {".ci", "tests", "docs", "runs", "build", "dist"}


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git clone")
    # A file staged for removal may be gone from the disk.
    return [Path(name) for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a clean copy of the tracked files: stale build/ folders would travel otherwise."""
    copy, out = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    if not (copy / "README.md").is_file():
        pytest.skip("README.md, which pyproject names, is not there yet")
    words = ["wheel", str(copy), "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    command = [sys.executable, "-m", "pip", *words]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr[-2000:]
    (file,) = out.glob("*.whl")
    return file


def test_packages_in_pyproject_are_the_folders_on_disk():
    stated = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent for path in tracked_files() if path.suffix == ".py" and path.parts[0] not in NOT_SHIPPED}
    found = {".".join(("imtok", *folder.parts)) for folder in folders}
    assert stated == found, f"only in pyproject: {stated - found}; only on disk: {found - stated}"


def test_wheel_holds_imtok_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"imtok"}
    shipped = {name for name in names if name.startswith("imtok/")}
    wanted = {
        f"imtok/{path.as_posix()}"
        for path in tracked_files()
        if path.suffix in (".py", ".yaml", ".html", ".css", ".typed")
        and path.parts[0] not in NOT_SHIPPED
        and path.parts[0][0] != "."
    }
    assert shipped == wanted, f"missing: {sorted(wanted - shipped)}; too many: {sorted(shipped - wanted)}"


def run_installed(target: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """The wheel's imtok, not the clone's: an editable install finds itself through a hook that PYTHONPATH precedes."""
    code = (
        "import sys, imtok; assert imtok.__file__.startswith(sys.argv[1]), imtok.__file__\n"
        "from imtok.scripts.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, str(target), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("target")
    zipfile.ZipFile(wheel).extractall(target)  # what an installer does with a wheel of pure Python
    return target


def test_installed_wheel_answers_outside_the_clone(installed, tmp_path):
    result = run_installed(installed, tmp_path, "--help")
    assert result.returncode == 0 and "recipes" in result.stdout, result.stderr


@pytest.mark.slow
def test_two_updates_from_the_installed_wheel(installed, tmp_path):
    result = run_installed(
        installed, tmp_path, "train", "experiment=quickstart", "debug=tiny", f"hydra.run.dir={tmp_path}/run"
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "run" / "tokenizer" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "report.html").is_file()


def odd_pictures(folder: Path) -> None:
    """Twenty files of mixed kinds, two of them broken."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (70 + 5 * n, 90 + 3 * n, 3), dtype=np.uint8) for n in range(18)]
    kinds = ["jpg", "png", "webp", "tiff", "gif", "bmp"]
    modes = ["RGB", "L", "RGB", "CMYK", "P", "RGB"]
    for number, array in enumerate(pixels):
        Image.fromarray(array).convert(modes[number % 6]).save(folder / f"{number:02d}.{kinds[number % 6]}")
    (folder / "18.jpg").write_bytes((folder / "00.jpg").read_bytes()[:300])
    (folder / "19.png").write_bytes(b"no picture at all")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_folder_of_odd_pictures_in_an_empty_environment(wheel, tmp_path):
    """Installs the wheel with all that it asks for: minutes and gigabytes, and needs the package index."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = [str(tmp_path / "venv" / "bin" / "pip"), "install", "-q", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    done = subprocess.run(pip, env=environment, capture_output=True, text=True)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index in reach")
    assert done.returncode == 0, done.stderr[-2000:]
    odd_pictures(tmp_path / "pictures")
    words = ["train", "experiment=quickstart", "data=folder", f"data.root={tmp_path / 'pictures'}", "hydra.run.dir=run"]
    words += ["trainer.max_updates=20", "trainer.threads=1"]
    imtok = str(tmp_path / "venv" / "bin" / "imtok")
    done = subprocess.run([imtok, *words], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 images could not be read and had to be skipped" in done.stdout + done.stderr
    for name in ("tokenizer/model.safetensors", "report.html", "skipped_images.txt"):
        assert (tmp_path / "run" / name).is_file(), name
