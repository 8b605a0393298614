"""Export folders: what is written comes back, and nothing from a downloaded folder runs."""

import json

import pytest
import torch
from safetensors import SafetensorError

import imtok
from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.moved import MOVED
from imtok.tokenizers.hub import save_pretrained


@pytest.fixture
def folder(tokenizer_node, tmp_path):
    tokenizer = build(tokenizer_node, key="tokenizer")
    return save_pretrained(tokenizer, tmp_path / "tokenizer", facts={"experiment": "test", "update": 7})


def edit_config(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_round_trip_is_exact(tokenizer_node, tmp_path) -> None:
    tokenizer = build(tokenizer_node, key="tokenizer").eval()
    save_pretrained(tokenizer, tmp_path)
    loaded = imtok.from_pretrained(str(tmp_path))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert not loaded.training
    assert torch.equal(loaded.tokenize(images), tokenizer.tokenize(images))
    assert torch.equal(loaded.reconstruct(images), tokenizer.reconstruct(images))


def test_folder_holds_what_the_readme_says(folder) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["codebook"] == {"size": 64, "tokens_per_image": 64, "bits_per_image": 384.0}
    assert config["training"] == {"experiment": "test", "update": 7}
    assert "| tokens an image | 64 |" in (folder / "README.md").read_text()


def test_a_run_folder_works_too(folder) -> None:
    assert imtok.from_pretrained(folder.parent).num_tokens == 64


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "imtok.tokenizers.hub.os.system",
        "imtok.tokenizers.hub.save_pretrained",
        "torch.nn.Linear",
        "imtok.tokenizers.tokenizer.nn.Linear",
        "imtok.common.errors.UserError",
        "imtok.losses.lpips.LPIPS",  # a module of imtok, but no part of a tokenizer: it would look for weights
        "imtok.losses.adversarial.patchgan.PatchGAN",
        "imtok.training.module.TokenizerTraining",
        "imtok.tokenizers.tokenizer.UserError",
    ],
)
@pytest.mark.parametrize("where", ["tokenizer", "encoder"])
def test_only_modules_of_imtok_are_built(folder, target: str, where: str) -> None:
    def change(config) -> None:
        node = config["tokenizer"] if where == "tokenizer" else config["tokenizer"][where]
        node["_target_"] = target

    edit_config(folder, change)
    with pytest.raises(UserError, match="_target_"):
        imtok.from_pretrained(folder)


def test_an_old_class_path_is_renamed_before_it_is_judged(folder, monkeypatch) -> None:
    old = "imtok.models.encoder.CNNEncoder"
    monkeypatch.setitem(MOVED, "models.encoder", "tokenizers.encoders.cnn")
    edit_config(folder, lambda config: config["tokenizer"]["encoder"].update(_target_=old))
    imtok.from_pretrained(folder)
    monkeypatch.setitem(MOVED, "models.encoder", "hub.os")
    with pytest.raises(UserError, match="_target_"):
        imtok.from_pretrained(folder)


@pytest.mark.parametrize("key", ["_args_", "_partial_"])
def test_no_positional_and_no_partial(folder, key: str) -> None:
    edit_config(folder, lambda config: config["tokenizer"]["decoder"].update({key: True}))
    with pytest.raises(UserError, match=key):
        imtok.from_pretrained(folder)


def test_other_architecture_is_refused_by_key_names(folder) -> None:
    edit_config(folder, lambda config: config["tokenizer"]["encoder"].update(z_channels=8))
    with pytest.raises(
        UserError, match=r"other shape: .*encoder.conv_out.weight \[16, 64, 3, 3\] instead of \[8, 64, 3, 3\]"
    ):
        imtok.from_pretrained(folder)
    edit_config(folder, lambda config: config["tokenizer"]["encoder"].update(z_channels=16, blocks_per_level=2))
    with pytest.raises(UserError, match="missing: encoder"):
        imtok.from_pretrained(folder)


def test_damaged_and_foreign_folders_get_one_line(folder, tmp_path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        imtok.from_pretrained(folder)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        imtok.from_pretrained(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match="import-weights"):
        imtok.from_pretrained(folder)
    with pytest.raises(UserError, match="no such folder"):
        imtok.from_pretrained(tmp_path / "nothing" / "here")


def test_newer_format_asks_for_an_upgrade(folder) -> None:
    edit_config(folder, lambda config: config.update(format_version=99))
    with pytest.raises(UserError, match="upgrade"):
        imtok.from_pretrained(folder)


def test_a_failed_write_leaves_the_old_export(folder, tokenizer_node, monkeypatch) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def full_disk(*args, **kwargs):  # as safetensors says it
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_model", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(build(tokenizer_node, key="tokenizer"), folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not list(folder.glob(".writing_*"))


@pytest.mark.parametrize(
    "raw",
    [
        b"\x90\xff",
        b"[" * 200_000 + b"]" * 200_000,
        b'{"format": ' + b"9" * 10_000 + b"}",
        b'{"format": "imtok-tokenizer", "format_version": "x", "tokenizer": {}}',
        b'{"format": "imtok-tokenizer", "format_version": 1, "tokenizer": [1]}',
        b'{"format": "imtok-tokenizer", "format_version": 1}',
    ],
    ids=["bytes", "depth", "digits", "version", "list", "nothing"],
)
def test_a_config_that_is_no_config_gets_one_line(folder, raw: bytes) -> None:
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(UserError, match=r"config\.json"):
        imtok.from_pretrained(folder)


def test_nothing_in_a_list_is_built_and_nothing_is_interpolated(folder, tmp_path) -> None:
    node = {"_target_": "subprocess.run", "args": ["touch", str(tmp_path / "ran")]}
    for value in ([node], [1, node], "${oc.env:HOME}", {"_target_": ["os.system"]}):
        edit_config(
            folder, lambda config, value=value: config["tokenizer"]["encoder"].update(channel_multipliers=value)
        )
        with pytest.raises(UserError, match=r"tokenizer\.encoder\.channel_multipliers"):
            imtok.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("part", "key", "value"), [("encoder", "blocks_per_level", 10**4), ("quantizer", "codebook_size", 10**8)]
)
def test_a_config_far_larger_than_its_weights_is_not_built(
    folder, part: str, key: str, value: int, monkeypatch
) -> None:
    """Without a stop, ten thousand blocks take minutes and gigabytes before the shapes are compared."""
    edit_config(folder, lambda config: config["tokenizer"][part].update({key: value}))
    with pytest.raises(UserError, match="far larger model than its weights"):
        imtok.from_pretrained(folder)
    torch.nn.Linear(5000, 5000)  # the stop is gone afterwards
