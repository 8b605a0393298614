"""Lets the tests of this folder import `fake_tokenizer` (importmode=importlib puts nothing on the path)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "report"))
sys.path.append(str(Path(__file__).parent / "probes"))
