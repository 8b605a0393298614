"""The options of a config group, as a help text lists them."""

from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def names(group: str) -> str:
    return " | ".join(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))) or "(none)"
