"""Settings that an export leaves out keep their meaning."""

from pathlib import Path

from ...contracts.defaults import defaults_hold


def test_defaults_hold() -> None:
    defaults_hold(Path(__file__).parent, "imtok.tokenizers.spaces")
