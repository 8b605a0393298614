"""A hash that follows what changes a number and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import imtok.configs
from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.pixels import to_model_range, to_pixels
from imtok.eval.protocol import PROBES, Protocol

FILES = sorted((Path(imtok.configs.__file__).parent / "protocol").glob("*.yaml"))


def load(file: Path) -> Protocol:
    node = OmegaConf.merge({"weights": "random"}, {"protocol": OmegaConf.load(file)})
    return build(OmegaConf.to_container(node.protocol, resolve=True), key="protocol")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_yaml_builds_and_describes_itself(file: Path) -> None:
    protocol = load(file)
    assert protocol.label == f"{protocol.name}@{protocol.hash}" and len(protocol.hash) == 4
    assert protocol.describe()


def test_no_two_yaml_share_a_label_and_different_numbers() -> None:
    labels = {f.stem: load(f).label for f in FILES}
    assert len(set(labels.values())) == len(FILES) and len({label[-4:] for label in labels.values()}) == len(FILES)


def test_the_default_yaml_is_the_class_and_its_hash_stands() -> None:
    default = load(next(f for f in FILES if f.stem == "tok_eval_v1"))
    assert default.label == Protocol().label == "tok-eval/v1@cf5d", "a changed hash is a changed protocol: name it v2"


def test_where_files_lie_and_what_was_asked_for_do_not_change_the_hash() -> None:
    own = Protocol()
    assert replace(own, inception="random", lpips_vgg="a/file.pth", metrics=("psnr",)).hash == own.hash


@pytest.mark.parametrize(
    "change",
    [{"rounding": "floor"}, {"fid_resize": "antialias_bilinear"}, {"fid_pixels": "float"}, {"psnr_cap": 60.0}],
)
def test_what_changes_a_number_changes_the_hash(change: dict) -> None:
    assert replace(Protocol(), **change).hash != Protocol().hash


def test_unknown_choices_are_named() -> None:
    with pytest.raises(UserError, match=r"protocol\.rounding=ceil"):
        Protocol(rounding="ceil")
    with pytest.raises(UserError, match="lpips_vgg"):
        Protocol(metrics=("psnr", "lpips_vg"))


def test_rfid_needs_all_of_the_images_in_the_protocols_crop() -> None:
    facts = {"name": "imagenet", "evaluated": "val", "val_crop": "ADM centre crop (box halving, bicubic) 256"}
    protocol = Protocol()
    assert protocol.allows_rfid_name(facts, 50_000)
    assert not protocol.allows_rfid_name(facts, 49_999)
    assert not protocol.allows_rfid_name(facts | {"name": "folder"}, 50_000)
    assert not protocol.allows_rfid_name(facts | {"evaluated": "all"}, 50_000)
    assert not protocol.allows_rfid_name(facts | {"val_crop": "centre crop (bicubic)"}, 50_000)


def test_rounding_returns_every_level_and_clamps() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_pixels(to_model_range(levels)), levels)
    assert to_pixels(torch.tensor([-1.2, 1.2])).tolist() == [0, 255]
    halfway = (torch.tensor([10.4, 10.6]) / 127.5) - 1
    assert to_pixels(halfway).tolist() == [10, 11] and to_pixels(halfway, "floor").tolist() == [10, 10]


def test_published_settings() -> None:
    """Those that define a number are under the hash above; these are how much is measured and where files lie."""
    own = Protocol()
    assert (own.image_count, own.psnr_cap, own.ssim_data_range) == (50_000, 100.0, 255.0)
    assert (own.inception_splits, own.inception_seed, own.probe_images, own.small) == (10, 0, 2048, False)


def test_a_protocol_comes_back_from_its_results() -> None:
    for own in (Protocol(), Protocol(weights="random", small=True, metrics=("psnr", "kid"), probes=("knn",))):
        written = own.as_dict()
        assert (written["label"], written["hash"]) == (own.label, own.hash)
        again = Protocol.of_results({"protocol": written})
        assert again.label == own.label and again.as_dict() == written
        assert ({"weights", "small"} <= set(written)) == own.small and "settings" not in written
    chosen = Protocol(metrics=("psnr", "kid"), settings={"kid": {"subset_size": 7}})
    assert chosen.as_dict()["settings"] == {"kid": {"subset_size": 7}}
    assert chosen.hash != Protocol(metrics=("psnr", "kid")).hash


def test_probes_that_are_wanted() -> None:
    assert Protocol().wanted_probes == PROBES and Protocol(probes="none").wanted_probes == ()
    assert Protocol(probes=["knn"]).wanted_probes == ("knn",)
    assert Protocol(probe_images=1).probe_images == 1
    with pytest.raises(UserError, match=r"protocol\.probe_images=0: at least 1"):
        Protocol(probe_images=0)
    with pytest.raises(UserError, match=r"protocol\.settings\.kid: .* of protocol\.metrics"):
        Protocol(metrics=("psnr",), settings={"kid": {"subset_size": 7}})


def test_the_words_say_each_thing_once() -> None:
    said = Protocol(metrics=("rfid", "inception_score", "kid")).describe()
    assert len(said) == len(set(said)) and said[0][0] == "pixels" and "round(clip" in said[0][1]
    assert [name for name, _ in said].count("FID features") == 1 and {"KID", "Inception score"} & {n for n, _ in said}
    assert "floor(clip" in Protocol(rounding="floor").describe()[0][1]
    assert Protocol().is_own_crop({"val_crop": "adm CENTRE crop 256"}) and not Protocol().is_own_crop({})
