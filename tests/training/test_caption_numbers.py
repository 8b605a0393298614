"""What a text tower reads is made by the loaders' workers, once a caption, and is what it would have made itself."""

from pathlib import Path

import pytest
import torch

from imtok.configs.compose import compose_config
from imtok.tokenizers.conditioners import clip_text
from imtok.training.factory import build_training

pytest.importorskip("open_clip")
TINY = ["debug=tiny", "data=generated", "trainer.threads=1", "weights=random", "data.num_workers=1"]


@pytest.mark.parametrize("name", ["ta_titok_bl32_vq", "unitok_clip"])
def test_training_batches_hold_what_the_tower_would_make(name, tmp_path, monkeypatch):
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path))
    training, data = build_training(compose_config("train", [f"experiment={name}", *TINY]), Path("."))
    readers = [training.tokenizer.conditioner, *training.losses.terms.values()]
    (reader,) = [r for r in readers if r is not None and r.caption_numbers is not None]
    (batch,) = data.train_loader(num_batches=1)
    numbers = reader.caption_numbers
    assert torch.equal(batch["caption_numbers"][numbers.key], numbers(batch["caption"]))
    assert numbers.of(batch) is batch["caption_numbers"][numbers.key]
    assert numbers.of({"caption": batch["caption"]}) is batch["caption"]
    read = reader if training.tokenizer.conditioner is not None else reader.tower
    torch.testing.assert_close(read(numbers.of(batch)), read(batch["caption"]), rtol=0, atol=0)
    (unread, *_) = data.val_loader(2)
    assert "caption_numbers" not in unread and unread["caption"]


def test_the_word_splitter_is_built_once(monkeypatch):
    made = []
    real = clip_text._words
    monkeypatch.setattr(clip_text, "_words", lambda length: made.append(length) or real(length))
    conditioner = clip_text.CLIPText(weights="random", width=32, depth=1, num_heads=2, length=16)
    assert made == []
    conditioner(["a red circle"]), conditioner(["a blue square"])
    assert made == [16]
