import hashlib
import json
import os
import pickle
import threading
import time
import warnings

import numpy as np
import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.data import generated_cache
from imtok.data.datamodule import ImageData
from imtok.data.generated import GeneratedImages
from imtok.data.scenes import COLOURS, POSITIONS, SHAPES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "generated"


@pytest.fixture(scope="module")
def sample():
    """150 pictures and what they show, drawn without the cache."""
    source = GeneratedImages(image_size=64, count=150, val_count=1, cache=False)
    images = source.split_sources().train
    return [images.read(i).numpy() for i in range(150)], source.scenes("train")


def test_pictures_depend_on_seed_split_and_number_alone():
    few, many = (GeneratedImages(image_size=32, count=n, val_count=n, cache=False).split_sources() for n in (3, 9))
    assert torch.equal(few.train.read(2), many.train.read(2)) and few.val.caption(1) == many.val.caption(1)
    other = GeneratedImages(image_size=32, count=3, val_count=3, seed=1, cache=False).split_sources()
    assert not torch.equal(few.train.read(2), other.train.read(2))
    assert not torch.equal(few.train.read(2), few.val.read(2))


def test_cached_equals_drawn_and_is_reused(cache, monkeypatch):
    drawn = GeneratedImages(image_size=32, count=70, val_count=5, cache=False).split_sources()
    cached = GeneratedImages(image_size=32, count=70, val_count=5).split_sources()
    assert cached.train.cached and not drawn.train.cached
    for i in (0, 63, 64, 69):
        assert torch.equal(cached.train.read(i), drawn.train.read(i))
    assert torch.equal(pickle.loads(pickle.dumps(cached.train)).read(7), drawn.train.read(7))
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]  # nothing unfinished is left
    monkeypatch.setattr(generated_cache, "_draw", lambda *_: pytest.fail("drawn again"))
    GeneratedImages(image_size=32, count=70, val_count=5).split_sources().train.read(1)


def test_a_split_is_drawn_when_it_is_first_read(cache):
    data = ImageData(source=GeneratedImages(image_size=32, count=10**9, val_count=3), image_size=32, num_workers=0)
    data.describe()
    assert not cache.exists()
    batch = next(iter(data.val_loader()))  # what `imtok evaluate data=generated` reads
    assert len(batch["image"]) == 3 and next(p.name for p in cache.iterdir() if p.is_dir()).startswith("val_")
    assert not any(p.name.startswith("train") for p in cache.iterdir())


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "facts", "no_facts"])
def test_a_damaged_cache_is_drawn_again(cache, damage):
    source = GeneratedImages(image_size=32, count=8, val_count=2)
    before = source.split_sources().train.read(3)
    folder = next(p for p in cache.iterdir() if p.name.startswith("train") and p.is_dir())
    images, facts = folder / "images.u8", folder / "facts.json"
    if damage == "truncate":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "overwrite":
        images.write_bytes(bytes(images.stat().st_size))
    elif damage == "facts":
        facts.write_text("{")
    else:
        facts.unlink()
    assert torch.equal(source.split_sources().train.read(3), before)


def test_an_interrupted_drawing_leaves_nothing_and_old_remains_go(cache, monkeypatch):
    source = GeneratedImages(image_size=32, count=4, val_count=2)
    recipe = source.recipes["train"]
    old, young = (cache / f".{recipe.key}.{name}" for name in ("old", "young"))
    for folder, age in ((old, 25), (young, 23)):  # a day is longer than any drawing takes
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age * 3600,) * 2)
    with monkeypatch.context() as patch:
        patch.setattr(generated_cache, "_draw_chunk", interrupted)
        patch.setattr(generated_cache, "usable_cores", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            source.split_sources().train.read(0)
    assert [path for path in cache.iterdir() if path.is_dir()] == [young]
    assert source.split_sources().train.read(0).shape == (3, 32, 32)
    lines = (cache / recipe.key / "scenes.jsonl").read_text().splitlines()
    assert [json.loads(line)["caption"] for line in lines] == [s.caption for s in source.scenes("train")]


def interrupted(*_: object) -> int:
    raise KeyboardInterrupt


@pytest.mark.parametrize("trouble", ["unwritable", "full"])
def test_without_a_disk_pictures_are_drawn_each_time(tmp_path, monkeypatch, trouble):
    if trouble == "unwritable":
        (tmp_path / "cache").write_text("a file where the folder should be")
    else:
        monkeypatch.setattr(generated_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        val = GeneratedImages(image_size=32, count=4, val_count=2).split_sources().val
        assert val.read(0).shape == val.read(1).shape == (3, 32, 32)
    assert len(caught) == 1 and "IMTOK_CACHE" in str(caught[0].message)
    assert not val.cached


def test_what_is_said_can_be_seen(sample):
    """The named colour dominates around the named place, told by the nearest of the eight colours."""
    pictures, scenes = sample
    palette = np.array(list(COLOURS.values()), dtype=float)
    right = []
    for picture, scene in zip(pictures, scenes, strict=True):
        for thing in scene.things:
            if thing.shape in ("ring", "crescent"):
                continue  # hollow in the middle
            x, y = POSITIONS[thing.position]
            row, column = round((y) * 64), round((x) * 64)
            patch = picture[:, row - 2 : row + 3, column - 2 : column + 3].reshape(3, -1).T
            nearest = np.abs(patch[:, None] - palette[None]).sum(-1).argmin(1)
            right.append(np.bincount(nearest, minlength=8).argmax() == list(COLOURS).index(thing.colour))
    assert len(right) > 100 and np.mean(right) > 0.93


def test_scenes_are_varied_and_named(sample):
    _, scenes = sample
    assert {s.things[0].shape for s in scenes} == set(SHAPES)
    assert {t.colour for s in scenes for t in s.things} == set(COLOURS)
    assert {t.position for s in scenes for t in s.things} == set(POSITIONS)
    assert 0.2 < np.mean([len(s.things) == 2 for s in scenes]) < 0.5
    assert 0.15 < np.mean([s.text is not None for s in scenes]) < 0.42
    for scene in scenes:
        first = scene.things[0]
        assert SHAPES[scene.label] == first.shape
        assert first.shape in scene.caption and first.colour in scene.caption and first.position in scene.caption
        assert (scene.text is None) or f"with the text '{scene.text.word}'" in scene.caption


def test_spectrum_is_that_of_natural_images(sample):
    """Amplitude falls as 1/f^a with a near 1 (Field 1987; van der Schaaf & van Hateren 1996 find 0.8 to 1.5)."""
    pictures, _ = sample
    window = np.outer(np.hanning(64), np.hanning(64))
    power = 0
    for picture in pictures:
        grey = picture.mean(0)
        power = power + np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    rings = [(frequency >= r / 64) & (frequency < (r + 1) / 64) for r in range(3, 28)]
    amplitude = [np.sqrt(power[ring].mean()) for ring in rings]
    slope = np.polyfit(np.log(np.arange(3, 28) + 0.5), np.log(amplitude), 1)[0]
    assert -1.6 < slope < -0.8


def test_pictures_use_the_whole_range_and_differ(sample):
    pixels = np.stack(sample[0])
    assert 70 < pixels.mean() < 180 and pixels.std() > 40
    assert len({p.tobytes() for p in sample[0]}) == 150


@pytest.mark.parametrize("name", ["generated", "folder", "imagenet", "imagenette", "cifar10"])
def test_every_yaml_builds_and_explains_itself(name, tmp_path):
    words = [f"data={name}", "debug=tiny"]
    node = compose_config("train", words)["data"]
    assert {"image_size", "batch_size", "eval_batch_size", "num_workers", "seed", "tiny"} <= set(node)
    assert set(node["tiny"]) <= set(node)
    if "root" in node:
        with pytest.raises(UserError, match=r"^data.source.root=null: give data.root=DIR"):
            build(node, key="data")
        node = compose_config("train", [*words, f"data.root={tmp_path}"])["data"]
    data = build(node, key="data")
    assert data.batch_size == 2 and data.train_crop.size == data.image_size
    if name == "generated":
        batch = next(iter(data.train_loader(num_batches=1)))
        assert batch["image"].shape == (2, 3, 32, 32) and len(batch["caption"]) == 2


def test_settings_beside_the_source_feed_it_and_others_are_refused() -> None:
    """A new data source is a class and a YAML: no list names its settings."""
    node = {
        "_target_": "imtok.data.datamodule.ImageData",
        "source": {"_target_": f"{GeneratedImages.__module__}.GeneratedImages"},
    }
    with pytest.raises(UserError, match=r"^data.count=4: ImageData has no such setting"):
        build(node | {"count": 4}, key="data")
    node["source"] |= {"count": 4}
    assert build(node | {"count": 4}, key="data").source.recipes["train"].count == 4
    with pytest.raises(UserError, match=r"^data.counts=4: ImageData has no such setting"):
        build(node | {"counts": 4}, key="data")
    with pytest.raises(UserError, match=r"^data.batch_size=0: a whole number"):
        build(node | {"batch_size": 0}, key="data")


@pytest.mark.parametrize("wrong", [{"count": 0}, {"image_size": 8}, {"text_share": 1.5}, {"seed": -1}])
def test_unusable_settings(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        GeneratedImages(**wrong)


def test_prompts_are_captions_of_one_object() -> None:
    source = GeneratedImages(image_size=16, count=60, val_count=1, text_share=0.0, cache=False)
    prompts = {name: set(source.prompts(name)) for name in source.class_names}
    alone = [scene for scene in source.scenes("train") if len(scene.things) == 1]
    assert alone
    for scene in alone:
        assert scene.caption in prompts[source.class_names[scene.label]]


def test_settings_at_their_limits_and_what_is_said_of_them():
    source = GeneratedImages(image_size=16, count=1, val_count=1, text_share=1, seed=0, cache=False)
    splits = source.split_sources()
    assert splits.all.key(1) == "val_000000" and splits.train.key(0) == "train_000000" and len(splits.all) == 2
    assert splits.train.label(0) == source.scenes("train")[0].label and splits.train.scene(0).caption
    assert list(splits.val.captioned()) == [0] and splits.val.read(0).shape == (3, 16, 16)
    assert source.describe() == {
        "name": "generated", "root": None, "split": "seeds apart (seed 0, drawing version 1, text in 1)",
    }  # fmt: skip
    assert [len(names) for names in source.vocabulary().values()] == [10, 8, 9, 3, 61]
    with pytest.raises(ValueError, match="val_count=0"):
        GeneratedImages(val_count=0)
    with pytest.raises(ValueError, match="text_share=-0"):
        GeneratedImages(text_share=-0.1)


def test_a_recipe_keeps_the_name_of_its_cache():
    """Another name would have every picture drawn again."""
    recipe = GeneratedImages(image_size=32, count=4, val_count=2).recipes["val"]
    facts = {"count": 2, "seed": 0, "size": 32, "split": "val", "text_share": 0.3, "version": recipe.version}
    digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
    assert recipe.key == f"val_32px_{digest}" and recipe.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("cores", [1, 3])
def test_every_picture_of_a_cache_is_the_one_that_is_drawn(cache, monkeypatch, cores):
    monkeypatch.setattr(generated_cache, "usable_cores", lambda: cores)
    monkeypatch.setattr(generated_cache, "CHUNK", 4)
    cached, drawn = (
        GeneratedImages(image_size=16, count=11, val_count=1, cache=c).split_sources() for c in (True, False)
    )
    for i in range(11):
        assert torch.equal(cached.train.read(i), drawn.train.read(i))
    assert cached.train.file.stat().st_size == 11 * 3 * 16 * 16


def test_every_one_of_a_few_pictures_and_the_last_of_many_is_fingerprinted(cache):
    for count, changed in ((5, 3), (33, 32), (100, 0)):
        images = GeneratedImages(image_size=16, count=count, val_count=1).split_sources().train
        before = images.read(changed)
        with open(images.file, "r+b") as file:
            file.seek(changed * 3 * 16 * 16)
            file.write(b"\0" * 50)
        again = GeneratedImages(image_size=16, count=count, val_count=1).split_sources().train
        assert torch.equal(again.read(changed), before)


def test_remains_of_another_run_on_this_machine_go_at_once(cache):
    source = GeneratedImages(image_size=16, count=2, val_count=1)
    left = cache / f".{source.recipes['train'].key}.abc@{generated_cache.HOST}"
    left.mkdir(parents=True)
    source.split_sources().train.read(0)
    assert not left.exists()


def test_the_disk_must_have_room_for_the_pictures_and_64_mb(cache, monkeypatch):
    needed = 2 * 3 * 16 * 16 + 64 * 2**20
    for free, fits in ((needed, True), (needed - 1, False)):
        source = GeneratedImages(image_size=16, count=2, val_count=1, seed=int(fits))
        monkeypatch.setattr(generated_cache.shutil, "disk_usage", lambda _, f=free: type("Usage", (), {"free": f}))
        images = source.split_sources().train
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images.prepare()
        assert images.cached is fits and len(caught) == (not fits)


def test_who_draws_the_same_pictures_waits_and_is_told_for_whom(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generated_cache, "PATIENCE_SECONDS", 0.05)
    path, entered = tmp_path / "a.lock", threading.Event()

    def second():
        with generated_cache._locked(path):
            entered.set()

    with generated_cache._locked(path):
        assert path.read_text() == f"process {os.getpid()} on {generated_cache.HOST}\n"
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
    thread.join(30)
    assert entered.is_set() and "which draws the same images" in capsys.readouterr().err


def test_progress_is_shown_where_somebody_waits(monkeypatch, capsys):
    recipe = GeneratedImages(image_size=16, count=3, val_count=1).recipes["train"]
    for patience, lines in ((1000.0, 0), (-1.0, 1)):
        monkeypatch.setattr(generated_cache, "QUIET_SECONDS", patience)
        with generated_cache._progress(recipe) as advance:
            for _ in range(3):
                advance(1)
        assert capsys.readouterr().err.count("drawing 16 px images (train") == lines
