"""`imtok encode` and `imtok decode` against tokenizer.reconstruct on the same pictures."""

import errno
import json

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.common import files as atomic_file
from imtok.common.errors import UserError
from imtok.common.pixels import to_model_range, to_uint8
from imtok.common.types import IndexSegment
from imtok.data.image_file import read_image
from imtok.data.token_store import Packing, TokenStore
from imtok.data.transforms import adm_centre_crop
from imtok.scripts import decode, encode
from imtok.scripts.decode import picture_names
from imtok.tokenizers.hub import from_pretrained


def run_encode(pictures, model, out, *more):
    return encode.main([str(pictures), "--model", str(model), "--out", str(out), "--device", "cpu", *more])


def test_round_trip_equals_reconstruct(pictures, model, tmp_path, capsys):
    assert run_encode(pictures, model, tmp_path / "tokens", "--batch-size", "1") == 0
    assert "skipped 1" in capsys.readouterr().out
    decode.main([str(tmp_path / "tokens"), "--model", str(model), "--out", str(tmp_path / "out"), "--batch-size", "1"])
    tokenizer = from_pretrained(model)
    store = TokenStore(tmp_path / "tokens")
    assert len(store) == 7 and "dogs/deep/5.jpg" in store.keys
    used = set()
    for key in store.keys:
        image = adm_centre_crop(read_image(pictures / key), 32)[None]
        expected = to_uint8(tokenizer.reconstruct(to_model_range(image)))[0].permute(1, 2, 0).numpy()
        written = np.asarray(Image.open((tmp_path / "out" / key).with_suffix(".png")))
        assert np.array_equal(written, expected), key
        used |= set(tokenizer.tokenize(to_model_range(image)).unique().tolist())
    assert len(used) > 4, "a test model that always picks the same code would prove nothing"


def test_index_says_what_the_tokens_are(pictures, model, tmp_path):
    run_encode(pictures, model, tmp_path / "tokens")
    index = json.loads((tmp_path / "tokens" / "index.json").read_text())
    assert index["count"] == 7 and index["dtype"] == "uint16" and index["streams"] == {"main": [64, 1]}
    assert index["codebook_size"] == 32 and index["image_size"] == [32, 32]
    assert len(index["skipped"]) == 1 and index["skipped"][0].startswith("cats/broken.png: ")
    assert index["classes"] == ["cats", "dogs"] and index["labels"] == [0, 0, 0, 0, 1, 1, 1]
    assert np.load(tmp_path / "tokens" / "tokens_00000.npy").dtype == np.uint16


def test_interrupted_encode_goes_on(pictures, model, tmp_path, monkeypatch):
    run_encode(pictures, model, tmp_path / "whole", "--batch-size", "2", "--shard-size", "2")
    calls = []
    original = from_pretrained(model).__class__.tokenize

    def failing(self, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise RuntimeError("killed")
        return original(self, images)

    monkeypatch.setattr("imtok.tokenizers.tokenizer.Tokenizer.tokenize", failing)
    with pytest.raises(RuntimeError, match="killed"):
        run_encode(pictures, model, tmp_path / "cut", "--batch-size", "2", "--shard-size", "2")
    with pytest.raises(UserError, match="interrupted"):
        TokenStore(tmp_path / "cut")
    calls[:] = [0] * 10
    run_encode(pictures, model, tmp_path / "cut", "--batch-size", "2", "--shard-size", "2")
    assert len(calls) - 10 == 2, "the two finished shards are not encoded again"
    whole, cut = TokenStore(tmp_path / "whole"), TokenStore(tmp_path / "cut")
    assert whole.index == cut.index
    for (_, _, a), (_, _, b) in zip(whole.batches(3), cut.batches(3), strict=True):
        assert torch.equal(a, b)


def test_other_settings_need_overwrite(pictures, model, tmp_path):
    run_encode(pictures, model, tmp_path / "tokens", "--limit", "3")
    with pytest.raises(UserError, match="--overwrite"):
        run_encode(pictures, model, tmp_path / "tokens", "--image-size", "16")
    run_encode(pictures, model, tmp_path / "tokens", "--image-size", "16", "--overwrite")
    assert TokenStore(tmp_path / "tokens").index["streams"] == {"main": [16, 1]}


def test_other_model_is_refused(pictures, model, tmp_path):
    run_encode(pictures, model, tmp_path / "tokens", "--limit", "2")
    other = from_pretrained(model)
    torch.nn.init.normal_(other.quantizer.codebook)
    other.save_pretrained(tmp_path / "other")
    words = [str(tmp_path / "tokens"), "--model", str(tmp_path / "other"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match="another model"):
        decode.main(words)
    assert decode.main([*words, "--force"]) == 0


def test_formats_of_ar_trainers(pictures, model, tmp_path):
    run_encode(pictures, model, tmp_path / "tokens", "--format", "jsonl")
    run_encode(pictures, model, tmp_path / "tokens", "--format", "llamagen")  # from the finished store
    tokens = torch.cat([t for _, _, t in TokenStore(tmp_path / "tokens").batches(4)])
    lines = [json.loads(line) for line in (tmp_path / "tokens" / "pretokenized.jsonl").read_text().splitlines()]
    assert [line["class_id"] for line in lines] == [0, 0, 0, 0, 1, 1, 1]
    assert torch.equal(torch.tensor([line["tokens"] for line in lines]), tokens[..., 0])
    code = np.load(tmp_path / "tokens" / "imagenet32_codes" / "5.npy")
    assert code.shape == (1, 1, 64) and np.array_equal(code[0, 0], tokens[5, :, 0].numpy())
    assert np.load(tmp_path / "tokens" / "imagenet32_labels" / "5.npy").tolist() == [1]


def test_crop_none_takes_exact_sizes_only(pictures, model, tmp_path):
    Image.new("RGB", (32, 32), (10, 200, 30)).save(pictures / "cats" / "exact.png")
    run_encode(pictures, model, tmp_path / "tokens", "--crop", "none")
    assert TokenStore(tmp_path / "tokens").keys == ["cats/exact.png"]


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(32, "uint16"), (65535, "uint16"), (2**18, "uint32"), (2**36, "int64")]
)
def test_packing_keeps_masks_and_large_vocabularies(vocabulary, dtype):
    packing = Packing.of([IndexSegment("main", 3, (vocabulary,))])
    assert packing.dtype == dtype
    indices = torch.tensor([[[0], [vocabulary - 1], [-1]]])
    assert torch.equal(packing.unpack(packing.pack(indices)), indices)


def test_packing_of_streams_with_different_codebook_counts():
    packing = Packing.of([IndexSegment("semantic", 2, (8, 8)), IndexSegment("pixel", 3, (16,), scale=0)])
    indices = {"semantic": torch.arange(8).view(2, 2, 2), "pixel": torch.arange(6).view(2, 3, 1)}
    back = packing.unpack(packing.pack(indices))
    assert all(torch.equal(back[name], indices[name]) for name in indices)


def test_picture_names():
    assert picture_names(["a/b.jpg", "a/b.png", "c.d.webp"]) == ["a/b.jpg.png", "a/b.png.png", "c.d.png"]
    for bad in ("../x.png", "/etc/x.png", "a/../../x.png"):
        with pytest.raises(UserError, match="leads out"):
            picture_names([bad])


@pytest.mark.parametrize("given", ["missing", "empty"])
def test_no_images_is_one_line(given, model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no such file or folder|no image files"):
        run_encode(tmp_path / given, model, tmp_path / "tokens")


def test_a_size_the_model_cannot_take_names_the_flag(pictures, model, tmp_path):
    with pytest.raises(UserError, match="--image-size"):
        run_encode(pictures, model, tmp_path / "tokens", "--image-size", "31")


@pytest.mark.parametrize(
    "change",
    [
        {"keys": ["../out.png"] * 7},
        {"keys": 3},
        {"streams": {"main": [1]}},
        {"dtype": "no type"},
        {"shards": [{"file": "tokens_00000.npy", "count": 10**6}]},
        {"image_size": None},
        {"format_version": "new"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_hostile_or_damaged_index_is_one_line_and_writes_nothing(change, pictures, model, tmp_path):
    run_encode(pictures, model, tmp_path / "tokens")
    index = tmp_path / "tokens" / "index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(ValueError):  # foreseen: the command prints it as one line
        decode.main([str(tmp_path / "tokens"), "--model", str(model), "--out", str(tmp_path / "a" / "out")])
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob("**/out.png"))


def test_forced_tokens_that_the_model_has_no_codes_for_are_one_line(pictures, model, tmp_path):
    run_encode(pictures, model, tmp_path / "tokens")
    file = tmp_path / "tokens" / "tokens_00000.npy"
    rows = np.load(file)
    rows[2, 5] = 32
    np.save(file, rows)
    words = [str(tmp_path / "tokens"), "--model", str(model), "--out", str(tmp_path / "out")]
    with pytest.raises(
        UserError,
        match=r"tokens: indices reach 32, but the codebook has 32 entries; decode with the model that made the tokens$",
    ):
        decode.main(words)
    assert not (tmp_path / "out").exists()
    index = tmp_path / "tokens" / "index.json"
    facts = json.loads(index.read_text())
    index.write_text(json.dumps(facts | {"image_size": [64, 64]}))
    with pytest.raises(UserError, match="--force cannot bridge that"):
        decode.main([*words, "--force"])


@pytest.mark.parametrize("full_at", [1, 2, 3, 4])
def test_a_full_disk_leaves_nothing_half_written_and_encode_goes_on(pictures, model, tmp_path, monkeypatch, full_at):
    calls, sync = [], atomic_file.os.fsync

    def fsync(handle):
        calls.append(handle)
        if len(calls) >= full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(atomic_file.os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        run_encode(pictures, model, tmp_path / "tokens")
    assert not [p.name for p in (tmp_path / "tokens").iterdir() if p.name.startswith(".")]
    monkeypatch.setattr(atomic_file.os, "fsync", sync)
    run_encode(pictures, model, tmp_path / "tokens")
    assert len(TokenStore(tmp_path / "tokens")) == 7


@pytest.fixture
def variable_model(variable_node, tmp_path):
    from imtok.common.build import build
    from imtok.tokenizers.hub import save_pretrained

    return save_pretrained(build(variable_node, key="tokenizer").eval(), tmp_path / "variable" / "tokenizer")


def expected_picture(pictures, key, tokenizer, length):
    image = adm_centre_crop(read_image(pictures / key), 32)[None]
    made = tokenizer.reconstruct(to_model_range(image), num_tokens=length)
    return image, to_uint8(made)[0].permute(1, 2, 0).numpy()


def test_a_quality_keeps_each_pictures_own_length_through_store_and_decode(pictures, variable_model, tmp_path, capsys):
    words = ["--quality", "psnr>=26", "--batch-size", "3", "--shard-size", "2"]
    assert run_encode(pictures, variable_model, tmp_path / "tokens", *words) == 0
    printed = capsys.readouterr().out
    store, tokenizer = TokenStore(tmp_path / "tokens"), from_pretrained(variable_model)
    lengths = store.index["lengths"]
    assert len(set(lengths)) > 2 and f"{min(lengths)} to {max(lengths)} tokens" in printed
    assert store.index["quality"] == "psnr>=26" and store.index["streams"] == {"main": [64, 3]}
    rows = torch.cat([t for _, _, t in store.batches(2)])
    assert (rows[..., 0] >= 0).sum(1).tolist() == lengths
    decode.main([str(tmp_path / "tokens"), "--model", str(variable_model), "--out", str(tmp_path / "out")])
    missed = 0
    for key, length, row in zip(store.keys, lengths, rows, strict=True):
        image, picture = expected_picture(pictures, key, tokenizer, length)
        written = np.asarray(Image.open((tmp_path / "out" / key).with_suffix(".png")))
        assert np.array_equal(written, picture)
        assert torch.equal(row[:length], tokenizer.tokenize(to_model_range(image))[0, :length])
        error = ((image[0].permute(1, 2, 0).numpy().astype(float) - written) ** 2).mean()
        missed += 10 * np.log10(255**2 / error) < 26
    assert missed == store.index["missed"] and (f"{missed} miss psnr>=26" in printed) == (missed > 0)


def test_the_first_tokens_of_every_picture_make_narrow_shards(pictures, variable_model, tmp_path):
    assert run_encode(pictures, variable_model, tmp_path / "tokens", "--num-tokens", "5") == 0
    store, tokenizer = TokenStore(tmp_path / "tokens"), from_pretrained(variable_model)
    assert np.load(tmp_path / "tokens" / "tokens_00000.npy").shape == (7, 5, 3)
    decode.main([str(tmp_path / "tokens"), "--model", str(variable_model), "--out", str(tmp_path / "out")])
    for key in store.keys:
        written = np.asarray(Image.open((tmp_path / "out" / key).with_suffix(".png")))
        assert np.array_equal(written, expected_picture(pictures, key, tokenizer, 5)[1])


def test_an_encode_to_another_length_is_no_continuation(pictures, variable_model, tmp_path):
    run_encode(pictures, variable_model, tmp_path / "tokens", "--quality", "psnr>=20")
    for words in ([], ["--num-tokens", "5"], ["--quality", "psnr>=21"]):
        with pytest.raises(UserError, match="begun with another"):
            run_encode(pictures, variable_model, tmp_path / "tokens", *words)


def test_formats_of_ar_trainers_have_no_empty_places(pictures, variable_model, tmp_path):
    run_encode(pictures, variable_model, tmp_path / "tokens", "--quality", "psnr>=26", "--format", "jsonl")
    lines = [json.loads(line) for line in (tmp_path / "tokens" / "pretokenized.jsonl").read_text().splitlines()]
    lengths = TokenStore(tmp_path / "tokens").index["lengths"]
    assert [len(line["tokens"]) for line in lines] == [3 * n for n in lengths]
    with pytest.raises(UserError, match="same number of tokens"):
        run_encode(pictures, variable_model, tmp_path / "tokens", "--quality", "psnr>=26", "--format", "llamagen")


@pytest.mark.parametrize("words", [["--num-tokens", "65"], ["--num-tokens", "0"], ["--quality", "good"]])
def test_lengths_that_cannot_be_are_refused_before_anything_is_written(words, pictures, variable_model, tmp_path):
    with pytest.raises((UserError, SystemExit)):
        run_encode(pictures, variable_model, tmp_path / "tokens", *words)
    assert not (tmp_path / "tokens").exists()


def test_a_fixed_length_has_no_shorter_prefixes(pictures, model, tmp_path):
    with pytest.raises(UserError, match="always has 64 tokens"):
        run_encode(pictures, model, tmp_path / "tokens", "--quality", "psnr>=20")
