"""Lets the contracts of metrics import tests/eval/fake_tokenizer (importmode=importlib puts nothing on the path)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "eval"))
