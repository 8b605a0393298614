"""Defaults of parts: an export states what its YAML states, so a changed default would change published tokenizers."""

import inspect
import json
from pathlib import Path
from typing import Any

from imtok.common.build import locate


def defaults_hold(folder: Path, home: str) -> None:
    """folder: with defaults.json, {module.Class: {setting: default}}; what is new there need not be listed."""
    for name, stored in json.loads((folder / "defaults.json").read_text()).items():
        assert {key: defaults_of(f"{home}.{name}").get(key, "no such setting") for key in stored} == stored, name


def defaults_of(target: str) -> dict[str, Any]:
    settings = inspect.signature(locate(target, key="").__init__).parameters
    given = {key: setting.default for key, setting in settings.items() if setting.default is not setting.empty}
    return json.loads(json.dumps(given))  # tuples as lists
