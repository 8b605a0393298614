"""Every remedy that a run or `imtok doctor` prints can be typed as it stands."""

import shlex

import pytest

from imtok.configs.compose import compose_config
from imtok.training.health_limits import REMEDIES

WORDS = [(name, word.strip("(),")) for name, text in REMEDIES.items() for word in shlex.split(text) if "=" in word]


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_a_remedy_composes(name: str, word: str) -> None:
    words = ["experiment=vqgan_f16_1024", "data=generated"]
    if word.startswith("tokenizer.quantizer."):
        words.append("tokenizer/quantizer=ema_vq")  # the word before it
    assert compose_config("train", [*words, word]) != compose_config("train", words)


def test_each_remedy_has_something_to_type() -> None:
    assert {name for name, _ in WORDS} == set(REMEDIES) - {"data_wait"}
