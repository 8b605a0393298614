import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.data import datamodule
from imtok.data.datamodule import ImageData
from imtok.data.folder import FolderImages
from imtok.data.generated import GeneratedImages
from imtok.data.sampling import EpochOrder, TrainBatches, mixed
from imtok.data.skipped import SkippedImages
from imtok.data.torchvision_sets import Cifar10, ImageNet, Imagenette
from imtok.data.transforms import AdmRandomCrop


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(23):
        pixels = rng.integers(0, 256, (20 + i % 5, 40 - i, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.{'jpg' if i % 2 else 'png'}")
    return folder


def as_rank(monkeypatch, rank: int, *, of: int) -> None:
    monkeypatch.setattr(datamodule, "rank", lambda: rank)
    monkeypatch.setattr(datamodule, "process_count", lambda: of)


def data_of(root, **settings):
    given = {"image_size": 16, "batch_size": 4, "num_workers": 0, "seed": 5} | settings
    crop = AdmRandomCrop(size=given["image_size"])
    return ImageData(source=FolderImages(root=str(root)), train_crop=crop, **given)


def assert_same(batches, others):
    batches, others = list(batches), list(others)
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert one["key"] == other["key"] and torch.equal(one["image"], other["image"])


def test_batches_hold_what_is_promised(root):
    batch = next(iter(data_of(root).train_loader(num_batches=1)))
    assert batch["image"].shape == (4, 3, 16, 16) and batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == [-1] * 4 and len(batch["key"]) == 4 and batch["skipped"] == []
    ready = data_of(root).prepare_batch(batch, "cpu")
    assert ready["image"].dtype == torch.float32 and -1 <= ready["image"].min() < 0 < ready["image"].max() <= 1


def test_nothing_depends_on_the_number_of_workers(root):
    alone = list(data_of(root).train_loader(num_batches=7))
    assert_same(alone, data_of(root, num_workers=2).train_loader(num_batches=7))
    assert_same(data_of(root).val_loader(), data_of(root, num_workers=2).val_loader())


def test_resume_from_any_sample_gives_the_tail(root):
    whole = list(data_of(root).train_loader(num_batches=12))  # two epochs and more
    for done in (1, 5, 11):
        torch.rand(3)  # the global generator has no say
        assert_same(whole[done:], data_of(root).train_loader(start_sample=4 * done, num_batches=12 - done))


def test_what_a_trainer_asks_for(root, monkeypatch):
    data = data_of(root, val_crop=None)
    assert len(list(data.train_dataloader())) == data.len_train // 4, "one epoch"
    data.begin_at(8, num_batches=3, max_val_images=2)
    assert_same(data.train_dataloader(), data_of(root).train_loader(start_sample=8, num_batches=3))
    state = torch.get_rng_state()
    assert sum(len(batch["image"]) for batch in data.val_dataloader()) == 2
    assert torch.equal(torch.get_rng_state(), state), "the training's random numbers are not touched"
    for ranks, there in ((data.len_val, True), (data.len_val + 1, False)):
        as_rank(monkeypatch, ranks - 1, of=ranks)
        if there:  # max_val_images would leave this rank without one
            assert [len(batch["image"]) for batch in data.val_dataloader()] == [1]
        else:
            with pytest.raises(UserError, match=f"{data.len_val} images for validation and {ranks} processes"):
                data.val_dataloader()


@pytest.mark.parametrize(("overfit", "batches"), [(2, 2), (0.4, 2), (0.01, 1)])
def test_overfit_batches_of_a_trainer(root, overfit, batches):
    data = data_of(root)  # five whole batches an epoch
    data.trainer = SimpleNamespace(overfit_batches=overfit)
    data.begin_at(0, num_batches=5)
    found = list(data.train_dataloader())
    for n, batch in enumerate(found):
        assert_same([batch], [found[n % batches]])
    assert found[0]["key"] != found[1]["key"] or batches == 1
    data.begin_at(4, num_batches=2)  # a resumed run
    assert_same(data.train_dataloader(), [found[1], found[2]])


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own():
    order = EpochOrder(length=11, seed=1)
    epochs = [[order[e * 11 + i] for i in range(11)] for e in range(3)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [EpochOrder(length=11, seed=2)[i] for i in range(11)]


def test_a_batch_larger_than_the_folder(root):
    batches = list(data_of(root, batch_size=64).train_loader(num_batches=2))
    assert [len(b["key"]) for b in batches] == [64, 64]
    augmented = {b.numpy().tobytes() for b in batches[0]["image"]}
    assert len(augmented) > len(set(batches[0]["key"]))  # the same file, cut differently


def test_processes_share_the_samples_between_them(root, monkeypatch):
    def samples(rank, world_size, batch_size):
        order = EpochOrder(length=9, seed=0)
        batches = TrainBatches(
            order=order,
            start_sample=8,
            num_batches=6 // world_size,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
        )
        return [item for batch in batches for item in batch]

    together = sorted(samples(0, 2, 4) + samples(1, 2, 4))
    assert together == samples(0, 1, 4) and [s for s, _ in together] == list(range(8, 32))

    keys = []
    for rank in (0, 1):
        as_rank(monkeypatch, rank, of=2)
        keys += [k for b in data_of(root).all_loader() for k in b["key"]]
    assert len(keys) == 23 and len(set(keys)) == 23  # no padding


def test_validation_subset_is_spread_and_unique(root):
    data = data_of(root)
    keys = [k for b in data.all_loader(max_images=5) for k in b["key"]]
    assert len(set(keys)) == 5 and keys[0] < "03" and keys[-1] > "15"
    assert len([k for b in data.all_loader(max_images=1000) for k in b["key"]]) == 23


def test_unreadable_images_are_replaced_in_training_and_left_out_in_evaluation(root, tmp_path):
    broken = [f"{i:02d}.png" for i in range(0, 22, 2)]
    for name in broken:
        (root / name).write_bytes(b"")
    data, log = data_of(root, batch_size=6, eval_batch_size=2), SkippedImages(folder=tmp_path)
    batches = list(data.train_loader(num_batches=8))
    assert all(len(b["image"]) == 6 and not set(b["key"]) & set(broken) for b in batches)
    assert_same(batches[3:], data_of(root, batch_size=6, num_workers=2).train_loader(start_sample=18, num_batches=5))
    seen = []
    for batch in data.all_loader():
        assert len(batch["image"]) == len(batch["key"]) == len(batch["label"]) > 0
        seen += batch["key"]
        log.collect(batch)
        log.collect(batch)
    assert set(seen) | set(broken) == {p.name for p in root.iterdir()} and len(seen) == 23 - len(broken)
    lines = (tmp_path / "skipped_images.txt").read_text().splitlines()
    assert len(lines) == len(broken) == len(log) and all("the file is empty" in line for line in lines)
    assert f"{len(broken)} images" in log.summary()
    assert len(SkippedImages(folder=tmp_path)) == len(broken)  # a resumed run does not name them twice


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_of_broken_images_is_one_line(root, num_workers):
    for path in root.iterdir():
        path.write_bytes(b"junk")
    data = data_of(root, num_workers=num_workers)
    for loader in (data.train_loader(num_batches=3), data.val_loader()):
        with pytest.raises(UserError, match=r"none of the images could be read") as caught:
            list(loader)
        assert f"data.root={root}" in str(caught.value) and "\n" not in str(caught.value)


def test_describe_and_split(root, tmp_path):
    data = data_of(root)
    facts = data.describe()
    assert facts["num_train"] + facts["num_val"] == 23 and facts["root"] == str(root)
    json.dumps(facts)
    data.write_split(tmp_path)
    assert len(json.loads((tmp_path / "split.json").read_text())["val"]) == facts["num_val"]


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"image_size": -1}, {"num_workers": "many"}, {"batch_size": "a"}])
def test_unusable_settings(root, wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        data_of(root, **wrong) if "image_size" not in wrong else ImageData(source=FolderImages(root=str(root)), **wrong)


def test_mixed_numbers_spread():
    values = [mixed(0, 3, s) for s in range(2000)] + [mixed(1, 3, s) for s in range(2000)]
    assert len(set(values)) == 4000 and min(values) >= 0 and max(values) < 2**63
    assert abs(np.mean([v & 1 for v in values]) - 0.5) < 0.05


def test_imagenet_layouts(tmp_path):
    for split, wnid in (("train", "n01"), ("train", "n02"), ("val", "n01"), ("val", "n02")):
        (tmp_path / split / wnid).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / split / wnid / "x.JPEG")
    splits = ImageNet(root=str(tmp_path)).split_sources()
    assert (splits.train.key(1), splits.train.label(1)) == ("train/n02/x.JPEG", 1) and len(splits.all) == 4
    assert splits.all.key(3) == "val/n02/x.JPEG" and splits.all.read(3).shape == (3, 9, 9)


@pytest.mark.parametrize("kind", [ImageNet, Imagenette, Cifar10])
def test_absent_sets_say_what_to_do(tmp_path, kind):
    with pytest.raises(UserError, match=r"data.root=.*(download=true|train/ and val/)") as caught:
        kind(root=str(tmp_path)).split_sources()
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"root=null: give data.root=DIR"):
        kind(root=None)


@pytest.mark.parametrize("data", ["generated", "folder", "imagenet", "imagenette", "cifar10"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adm_random", "ADM random crop 24 of a short side in 24..30"),
        ("random", "random crop (bicubic) 24"),
        ("random_resized", "random resized crop 24, area 0.2..1"),
        ("centre", "centre crop (bicubic) 24"),
        ("adm_centre", "ADM centre crop (box halving, bicubic) 24"),
    ],
)
def test_a_crop_is_chosen_by_its_name(data, name, says, tmp_path):
    words = [f"data={data}", f"data.train_crop={name}", "data.image_size=24"]
    words += [f"data.root={tmp_path}"] if data != "generated" else []
    module = build(compose_config("train", words)["data"], key="data")
    assert module.train_crop.describe() == says
    for height, width in ((24, 99), (57, 31)):
        picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        assert module.train_crop(picture, torch.Generator().manual_seed(0)).shape == (3, 24, 24)


@pytest.mark.parametrize("data", ["generated", "folder", "imagenet", "imagenette", "cifar10"])
def test_a_crop_with_settings_takes_the_place_of_a_name(data, tmp_path):
    crop = "{_target_: imtok.data.transforms.RandomResizedCrop, size: 24, min_area: 0.9}"
    words = [f"data={data}", f"data.train_crop={crop}", "data.image_size=24"]
    words += [f"data.root={tmp_path}"] if data != "generated" else []
    module = build(compose_config("train", words)["data"], key="data")
    assert module.train_crop.describe() == "random resized crop 24, area 0.9..1"


def seen_by(crop, height, width, draws=30):
    """Of a picture whose colours say where each pixel lies: share of its area in each crop, and the left edges."""
    rows = torch.linspace(0, 255, height)[:, None].expand(height, width)
    columns = torch.linspace(0, 255, width)[None].expand(height, width)
    picture = torch.stack([rows, columns, columns]).round().to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    crops = torch.stack([crop(picture, generator) for _ in range(draws)]).float()
    spans = crops.amax(dim=(2, 3)) - crops.amin(dim=(2, 3))
    return spans[:, 0] * spans[:, 1] / 255**2, crops[:, 1].amin(dim=(1, 2)), crops.shape[2:]


@pytest.mark.parametrize(
    ("experiment", "least", "most", "moves", "flip"),
    [
        ("dualtoken_256", 0.9, 1.0, True, False),
        ("unitok_clip", 0.9, 1.0, True, False),
        ("dualvitok_256", 1.0, 1.0, False, True),
        ("tokenflow_b", (224 / 280) ** 2, 1.0, True, True),
        ("llamagen_vq8", (256 / 320) ** 2, 1.0, True, True),
        ("titok_l32/stage2", 1.0, 1.0, True, True),
        ("open_magvit2_128", 1.0, 1.0, True, False),
        ("vqgan_f16_16384", 1.0, 1.0, True, False),
    ],
)
def test_crops_show_as_much_of_a_picture_as_the_publications_say(experiment, least, most, moves, flip, tmp_path):
    """least, most: share of a square picture's area; moves: along the long side of an oblong one."""
    config = compose_config("train", [f"experiment={experiment}", f"data.root={tmp_path}"])
    data = build(config["data"], key="data")
    areas, _, size = seen_by(data.train_crop, 400, 400)
    assert tuple(size) == (config["data"]["image_size"],) * 2 and data.flip is flip
    near = 0.02 + (most - least) / 4  # thirty draws come close to both ends
    assert areas.min() == pytest.approx(least, abs=near) and areas.max() == pytest.approx(most, abs=near)
    _, lefts, _ = seen_by(data.train_crop, 400, 800, draws=8)
    assert bool(lefts.std() > 5) is moves


def test_an_unknown_crop_is_refused_with_the_names():
    config = compose_config("train", ["data=generated", "data.train_crop=random_resize"])
    with pytest.raises(UserError, match=r"data\.train_crop=random_resize: .*adm_random, random, random_resized"):
        build(config["data"], key="data")


@pytest.mark.parametrize(("cores", "of_files", "in_memory"), [(1, 0, 0), (4, 3, 0), (5, 4, 4), (9, 8, 8), (64, 8, 8)])
def test_workers_follow_from_the_cores_where_nobody_names_them(root, monkeypatch, cores, of_files, in_memory):
    monkeypatch.setattr(datamodule, "usable_cores", lambda: cores)
    drawn = GeneratedImages(image_size=16, count=2, val_count=1, cache=False).split_sources().val
    drawn.cached = True
    data = data_of(root, num_workers="auto")
    assert (data._workers(data.splits.train), data._workers(drawn)) == (of_files, in_memory)
    assert data_of(root, num_workers=3)._workers(drawn) == 3


def test_settings_at_their_limits(root):
    data = data_of(root, batch_size=1, eval_batch_size=None, num_workers=0)
    assert data.eval_batch_size == 1 and data_of(root, eval_batch_size=3).eval_batch_size == 3
    assert data_of(root, batch_size=16384, eval_batch_size=None).eval_batch_size == 64
    assert data_of(root, batch_size=64, batch_per_device=4, eval_batch_size=None).eval_batch_size == 4
    wrongs = ({"eval_batch_size": 0}, {"batch_per_device": 0}, {"batch_size": True}, {"batch_size": 2.0})
    for wrong in (*wrongs, {"num_workers": -1}):
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
            data_of(root, **wrong)
    for size in (15, 17):
        with pytest.raises(ValueError, match=f"val_crop={size} pixels, but image_size=16"):
            data_of(root, val_crop=AdmRandomCrop(size=size))


def test_loaders_read_the_split_that_they_name(root):
    data = data_of(root, eval_batch_size=3)
    train, val = ({images.key(i) for i in range(len(images))} for images in (data.splits.train, data.splits.val))
    for loader, expected in ((data.fit_loader(), train), (data.val_loader(), val), (data.all_loader(), train | val)):
        batches = list(loader)
        assert {key for batch in batches for key in batch["key"]} == expected
        assert all(len(batch["key"]) == 3 for batch in batches[:-1])
    assert {key for batch in data.train_loader(num_batches=20) for key in batch["key"]} == train
    spread = [key for batch in data.fit_loader(max_images=4) for key in batch["key"]]
    names = sorted(train)
    assert spread == [names[i * len(names) // 4] for i in range(4)]


def test_images_of_a_split_are_prepared_before_they_are_read(root):
    data = data_of(root)
    ready = []
    for name in ("train", "val"):
        getattr(data.splits, name).prepare = lambda name=name: ready.append(name)
    data.prepare_data()
    assert ready == ["train", "val"]
    data.val_loader()
    assert ready == ["train", "val", "val"]


def test_floating_point_images_stay_as_they_are(root):
    batch = {"image": torch.rand(2, 3, 4, 4), "label": torch.tensor([1, 2]), "key": ["a", "b"]}
    ready = data_of(root).on_after_batch_transfer(batch, 0)
    assert torch.equal(ready["image"], batch["image"]) and ready["label"].tolist() == [1, 2]
    levels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    ready = data_of(root).prepare_batch(batch | {"image": levels}, "cpu")
    torch.testing.assert_close(ready["image"].flatten(), torch.tensor([-1.0, 1.0, -0.6]))


def test_what_is_said_of_crops(root):
    facts = data_of(root).describe()
    assert facts["train_crop"] == "ADM random crop 16 of a short side in 16..20, flip" and "captions" not in facts
    assert facts["val_crop"] == "ADM centre crop (box halving, bicubic) 16" and facts["image_size"] == 16
    assert not data_of(root, flip=False).describe()["train_crop"].endswith("flip")


def test_mixed_numbers_are_those_of_the_published_runs():
    """SplitMix64's finaliser, written out: a seed must draw the same images in every version."""

    def splitmix(state):
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return ((state ^ (state >> 31)) + 0x9E3779B97F4A7C15) % 2**64

    for numbers in ((0,), (1, 2, 3), (-1, 7), (2**70 + 5,)):
        state = 0x9E3779B97F4A7C15
        for number in numbers:
            state = splitmix((state ^ (number % 2**64)) * 0xBF58476D1CE4E5B9 % 2**64)
        assert mixed(*numbers) == state // 2
    order = EpochOrder(length=50, seed=3)
    epoch = torch.randperm(50, generator=torch.Generator().manual_seed(mixed(3, 1, 2)))
    assert [order[100 + i] for i in range(50)] == epoch.tolist()


def test_imagenet_without_classes_or_images(tmp_path):
    (tmp_path / "train" / "n01").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        ImageNet(root=str(tmp_path)).split_sources()
    Image.new("RGB", (9, 9)).save(tmp_path / "train" / "n01" / "x.JPEG")
    Image.new("RGB", (9, 9)).save(tmp_path / "val" / "v.JPEG")
    source = ImageNet(root=str(tmp_path))
    splits = source.split_sources()
    assert source.class_names == ("n01",) and splits.train.label(0) == 0
    assert (splits.val.key(0), splits.val.label(0)) == ("val/v.JPEG", -1)
    assert source.describe() == {"name": "imagenet", "root": str(tmp_path), "split": "ILSVRC2012 train / val"}
    with pytest.raises(ValueError, match="that is a file"):
        ImageNet(root=str(tmp_path / "val" / "v.JPEG"))


@pytest.mark.parametrize("kind", [Imagenette, Cifar10])
def test_a_failed_download_says_why(tmp_path, monkeypatch, kind):
    def refuse(*_, **__):
        raise OSError("no\nnetwork")

    for name in ("torchvision.datasets.utils.urllib.request.urlopen", "torchvision.datasets.cifar.check_integrity"):
        monkeypatch.setattr(name, refuse)
    with pytest.raises(UserError, match=r"the download failed \(no network\); put the folder"):
        kind(root=str(tmp_path), download=True).split_sources()
