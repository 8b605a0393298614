"""Captions of a folder: where they are found, what each way does, and that nobody trains without those it reads."""

import json

import numpy as np
import pytest
from PIL import Image

from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.data.datamodule import ImageData
from imtok.data.folder import FolderImages
from imtok.training.factory import build_training

NAMES = [f"{folder}/{i:02d}.jpg" for folder in ("cat", "dog") for i in range(8)]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "with spaces = and ümlaut"
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)).save(folder / name)
    return folder


def beside(root, names=NAMES):
    for name in names:
        (root / name).with_suffix(".txt").write_text(f"  a {name}\nin the sun\n")


def lines(file, names=NAMES):
    file.write_text("".join(json.dumps({"file": n, "caption": f"line {n}"}) + "\n" for n in names))


def found(root, **settings) -> dict[str, str | None]:
    images = FolderImages(root=str(root), **settings).split_sources().all
    return {images.key(i): images.caption(i) for i in range(len(images))}


def data_of(root, **settings) -> ImageData:
    return ImageData(source=FolderImages(root=str(root), **settings), image_size=16, batch_size=4, num_workers=0)


def test_each_way(root) -> None:
    assert found(root) == dict.fromkeys(NAMES)
    beside(root)
    assert found(root) == {n: f"a {n} in the sun" for n in NAMES}
    assert found(root, captions="none") == dict.fromkeys(NAMES)
    lines(root / "captions.jsonl", NAMES[:5])
    assert found(root) == {n: f"line {n}" if n in NAMES[:5] else f"a {n} in the sun" for n in NAMES}
    elsewhere = root.parent / "mine.jsonl"
    lines(elsewhere, [*NAMES[3:6], "not/there.jpg"])
    assert found(root, captions=str(elsewhere)) == {n: f"line {n}" if n in NAMES[3:6] else None for n in NAMES}


def test_the_first_caption_counts_and_empty_ones_do_not(root) -> None:
    file = root / "captions.jsonl"
    entries = [("./cat/00.jpg", "one"), ("cat/00.jpg", "two"), ("cat/01.jpg", " "), ("dog/00.jpg", "ein\nHünd")]
    file.write_text("\n\n".join(json.dumps({"file": n, "caption": c, "more": 1}) for n, c in entries))
    assert {n: c for n, c in found(root).items() if c is not None} == {"cat/00.jpg": "one", "dog/00.jpg": "ein Hünd"}


def test_batches_carry_them_whatever_the_workers(root) -> None:
    beside(root, NAMES[::2])
    lines(root / "captions.jsonl", NAMES[1::4])
    expected = found(root)
    for workers in (0, 2):
        data = data_of(root)
        data.num_workers = workers
        for batch in [*data.all_loader(), *data.train_loader(num_batches=3)]:
            assert batch.get("caption", [None] * 4) == [expected[key] for key in batch["key"]]


def test_who_reads_captions_sees_only_pictures_that_have_one(root, capsys) -> None:
    beside(root, NAMES[::2])
    data = data_of(root, val_fraction=0.4)
    before = data.describe()
    assert before["num_train"] + before["num_val"] == 16 and before["captions"] == 8
    data.take_captioned("loss.clip")
    note = capsys.readouterr().err
    assert "8 of 16 pictures have no caption, which loss.clip reads; they are left out" in note
    assert data.len_train + data.len_val == 8
    keys = [key for batch in data.all_loader() for key in batch["key"]]
    assert keys == NAMES[::2] and all(all(batch["caption"]) for batch in data.all_loader())
    data.take_captioned("tokenizer.conditioner")  # a second reader
    assert data.len_train + data.len_val == 8 and not capsys.readouterr().err


def test_none_at_all_is_one_line(root) -> None:
    with pytest.raises(UserError, match=r"loss.clip reads captions, and data=folder .* has none; put NAME.txt"):
        data_of(root).take_captioned("loss.clip")
    beside(root)
    with pytest.raises(UserError, match=r"data.captions=none; auto reads"):
        data_of(root, captions="none").take_captioned("loss.clip")
    for name in NAMES:
        (root / name).with_suffix(".txt").unlink()
    data = data_of(root)
    held_out = data.splits.val.key(0)
    beside(root, [held_out])
    with pytest.raises(UserError, match=r"no picture of .*, train split"):
        data_of(root).take_captioned("loss.clip")
    data_of(root).take_captioned("the model", used=["val"])


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("not json", "captions.jsonl, line 1: expected"),
        ('{"file": "cat/00.jpg"}', "line 1: expected"),
        ('{"file": "cat/00.jpg", "caption": "a"}\n[1]', "line 2: expected"),
        ('{"file": "nowhere.jpg", "caption": "a"}', "none of its 1 lines"),
    ],
)
def test_a_damaged_file_of_lines_is_one_line(root, written, said) -> None:
    (root / "captions.jsonl").write_text(written)
    with pytest.raises(UserError, match=said) as caught:
        found(root)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(root) -> None:
    with pytest.raises(UserError, match=r"data.captions=.*missing.jsonl: no such file"):
        found(root, captions=str(root / "missing.jsonl"))


WORDS = ["debug=tiny", "evaluate_after=false", "trainer.threads=1", "data=folder"]
CONTRASTIVE = ["experiment=unitok", *WORDS]


def test_training_refuses_before_the_first_batch(root, tmp_path) -> None:
    given = f"data.root='{root}'"
    with pytest.raises(UserError, match=r"loss.clip_infonce reads captions, and data=folder"):
        build_training(compose_config("train", [*CONTRASTIVE, given]), tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.conditioner reads captions, and data=folder"):
        build_training(compose_config("train", ["experiment=ta_titok_bl64_vq", *WORDS, given]), tmp_path)
    beside(root)
    _, data = build_training(compose_config("train", [*CONTRASTIVE, given]), tmp_path)
    assert all(next(iter(data.train_loader(num_batches=1)))["caption"])
