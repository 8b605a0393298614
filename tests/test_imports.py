"""The import trap: Hugging Face's `tokenizers` beside our folder of that name; and nothing heavy at import."""

import subprocess
import sys
from pathlib import Path

import pytest

import imtok

ROOT = Path(__file__).parents[1]


def python(code: str, folder: Path = ROOT) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_hugging_face_tokenizers_from_the_repository_root():
    pytest.importorskip("tokenizers", reason="pip install imtok[dev] has it")
    where = python("import imtok.common.types, tokenizers; tokenizers.Tokenizer; print(tokenizers.__file__)")
    assert "site-packages" in where


def test_no_package_marker_directly_under_the_root():
    marked = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert marked == {"configs"}, "a folder of ours with __init__.py hides an installed package of that name"


def test_importing_imtok_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'lightning', 'hydra'}"
    code = f"import sys, imtok; imtok.__version__; print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]"


def test_public_names_are_real():
    assert imtok.Tokenizer.__name__ == "Tokenizer" and callable(imtok.from_pretrained)
    with pytest.raises(AttributeError, match="nothing"):
        imtok.nothing  # noqa: B018
