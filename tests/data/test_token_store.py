"""A folder of tokens: what goes in comes out, in order, also after an interruption."""

import json

import numpy as np
import pytest
import torch

from imtok.common.errors import UserError
from imtok.common.types import IndexSegment
from imtok.data.token_store import Packing, TokenStore, TokenWriter, integer_type

ABOUT = {"model": "abc", "image_size": [32, 48], "crop": "centre"}
ONE = [IndexSegment("main", 2, (8,)), IndexSegment("main", 4, (8,), scale=1)]
TWO = [IndexSegment("semantic", 2, (8,)), IndexSegment("pixel", 3, (16, 16))]


def indices(layout: list[IndexSegment], batch: int, seed: int) -> torch.Tensor | dict[str, torch.Tensor]:
    """As `tokenize` gives them: one tensor where there is one stream."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[torch.Tensor]] = {}
    for segment in layout:
        shape = (batch, segment.length, len(segment.vocabulary))
        found.setdefault(segment.stream, []).append(torch.randint(0, segment.vocabulary[0], shape, generator=generator))
    joined = {name: torch.cat(parts, dim=1) for name, parts in found.items()}
    return joined.get("main", joined)


@pytest.mark.parametrize("layout", [ONE, TWO], ids=["one stream", "two streams"])
def test_what_is_written_is_read_in_order(layout, tmp_path):
    writer = TokenWriter(tmp_path / "new", layout=layout, about=ABOUT, shard_size=4)
    parts = [indices(layout, n, n) for n in (3, 1, 2)]
    writer.add(parts[0], keys=["a", "b", "c"], labels=[0, 1, 2], skipped=["x: broken"])
    assert writer.inputs_done == 4, "three images and a broken one fill a shard of four"
    writer.add(None, keys=[], labels=[], skipped=["y: broken"])
    writer.add(parts[1], keys=["d"], labels=[3], skipped=[])
    again = TokenWriter(tmp_path / "new", layout=layout, about=ABOUT, shard_size=4)  # after a kill: whole shards count
    assert again.inputs_done == 4
    again.add(parts[1], keys=["d"], labels=[3], skipped=["y: broken"])
    again.add(parts[2], keys=["e", "f"], labels=[4, -1], skipped=[])
    index = again.finish()
    assert index["count"] == 6 and index["keys"] == list("abcdef") and index["labels"] == [0, 1, 2, 3, 4, -1]
    assert index["skipped"] == ["x: broken", "y: broken"] and "lengths" not in index and "missed" not in index
    assert index["shards"] == [{"file": "tokens_00000.npy", "count": 3}, {"file": "tokens_00001.npy", "count": 3}]
    assert index["dtype"] == "uint16" and index["masked"] == 65535 and index["format_version"] == 1

    store = TokenStore(tmp_path / "new")
    assert len(store) == 6 and store.image_size == (32, 48)
    batches = list(store.batches(2))
    assert [keys for keys, _, _ in batches] == [["a", "b"], ["c"], ["d", "e"], ["f"]]
    assert [label for _, labels, _ in batches for label in labels] == index["labels"]
    read = [found for _, _, found in batches]
    if layout is ONE:
        assert torch.equal(torch.cat(read), torch.cat(parts)) and read[0].dtype == torch.int64
    else:
        for name in ("semantic", "pixel"):
            assert torch.equal(torch.cat([r[name] for r in read]), torch.cat([part[name] for part in parts]))
    TokenWriter.clear(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_lengths_and_misses_are_summed_over_shards(tmp_path):
    writer = TokenWriter(tmp_path, layout=ONE, about=ABOUT, shard_size=1, num_tokens=5)
    for number, length in enumerate((5, 2)):
        rows = indices(ONE, 1, number)[:, :5]
        rows[:, length:] = -1
        writer.add(rows, keys=[str(number)], labels=[-1], skipped=[], lengths=[length], missed=number + 1)
    index = writer.finish()
    assert index["lengths"] == [5, 2] and index["missed"] == 3 and index["streams"] == {"main": [5, 1]}
    assert np.load(tmp_path / "tokens_00001.npy").shape == (1, 5, 1)
    last = list(TokenStore(tmp_path).batches(8))[-1][2]
    assert (last[0, 2:] == -1).all() and (last[0, :2] >= 0).all()


def test_a_folder_of_other_tokens_is_refused(tmp_path):
    TokenWriter(tmp_path / "a", layout=ONE, about=ABOUT, shard_size=2)
    with pytest.raises(UserError, match=r"was begun with another crop \(centre, now random\)"):
        TokenWriter(tmp_path / "a", layout=ONE, about=ABOUT | {"crop": "random"}, shard_size=2)
    TokenWriter(
        tmp_path / "a", layout=ONE, about=ABOUT | {"model": "moved"}, shard_size=2
    )  # its place is not its content
    with pytest.raises(UserError, match=r"interrupted: run that again"):
        TokenStore(tmp_path / "a")
    for name in ("index.json", "tokens_00000.npy"):
        (tmp_path / name[:3]).mkdir()
        (tmp_path / name[:3] / name).write_text("{}")
        with pytest.raises(UserError, match="holds other tokens"):
            TokenWriter(tmp_path / name[:3], layout=ONE, about=ABOUT, shard_size=2)
    with pytest.raises(UserError, match=r"no index\.json there"):
        TokenStore(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("size", "dtype", "masked"),
    [(65535, "uint16", 65535), (65536, "uint32", 2**32 - 1), (2**32 - 1, "uint32", 2**32 - 1), (2**32, "int64", -1)],
)
def test_the_smallest_type_that_leaves_room_for_the_mask(size, dtype, masked):
    layout = [IndexSegment("main", 2, (4, size))]
    assert integer_type(layout).name == dtype
    packing = Packing.of(layout)
    assert packing.masked == masked
    given = torch.tensor([[[0, size - 1], [-1, -1]]])
    assert torch.equal(packing.unpack(packing.pack(given)), given)


def stored(folder) -> dict:
    writer = TokenWriter(folder, layout=ONE, about=ABOUT | {"model_sha256": "x", "inputs": "y"}, shard_size=2)
    assert TokenWriter.began(folder)
    for number in range(3):
        writer.add(indices(ONE, 1, number), keys=[f"ä{number}"], labels=[number], skipped=[])
    writer.finish()
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "is not a token store's"),
        ({"format_version": 2}, "a newer imtok"),
        ({"keys": ["a", "b"]}, "its shards hold 3 images, its keys 2"),
        ({"labels": [1, 2]}, "its shards hold 3 images"),
        ({"shards": [{"file": "tokens_00000.npy", "count": 1}]}, "its shards hold 1 images"),
        ({"streams": {"main": [1]}}, "is damaged"),
        ({"image_size": 3}, "is damaged"),
        ({"labels": None}, "is damaged"),
    ],
)
def test_a_damaged_index_is_one_line(tmp_path, change, said):
    index = stored(tmp_path)
    (tmp_path / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(UserError, match=said) as caught:
        TokenStore(tmp_path)
    assert "\n" not in str(caught.value)
    for text in ("[1]", "{", "{" * 5000):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(UserError, match=r"not a token store's|is not JSON"):
            TokenStore(tmp_path)


def test_a_damaged_shard_is_one_line(tmp_path):
    stored(tmp_path)
    assert "ä0" in (tmp_path / "index.json").read_text(encoding="utf-8"), "names stay readable"
    file = tmp_path / "tokens_00000.npy"
    rows = np.load(file)
    assert [len(keys) for keys, _, _ in TokenStore(tmp_path).batches(5)] == [2, 1]
    np.save(file, rows[:1])
    with pytest.raises(UserError, match=r"holds 1 images, index\.json says 2"):
        list(TokenStore(tmp_path).batches(5))
    np.save(file, np.array([{}, {}], dtype=object), allow_pickle=True)  # would run code of its writer
    with pytest.raises(UserError, match="cannot be read"):
        list(TokenStore(tmp_path).batches(5))
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        list(TokenStore(tmp_path).batches(5))


def test_whether_a_folder_was_begun(tmp_path):
    assert not TokenWriter.began(tmp_path)
    TokenWriter(tmp_path, layout=ONE, about=ABOUT, shard_size=2)
    assert not TokenWriter.began(tmp_path), "begun.json of something else"
    stored(tmp_path / "other")
    (tmp_path / "other" / "begun.json").unlink()
    assert TokenWriter.began(tmp_path / "other"), "finished"
    (tmp_path / "other" / "index.json").write_text("[]")
    assert not TokenWriter.began(tmp_path / "other")
    (tmp_path / "other" / "mine.txt").write_text("")
    TokenWriter.clear(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("length", "said"), [(60, "y" * 60), (61, "y" * 57 + r"\.\.\.")])
def test_long_values_of_an_error_are_cut(tmp_path, length, said):
    TokenWriter(tmp_path, layout=ONE, about=ABOUT, shard_size=2)
    with pytest.raises(UserError, match=rf"another crop \(centre, now {said}\)"):
        TokenWriter(tmp_path, layout=ONE, about=ABOUT | {"crop": "y" * length}, shard_size=2)


def test_a_shard_of_nothing_but_broken_files_counts_as_done(tmp_path):
    writer = TokenWriter(tmp_path, layout=ONE, about=ABOUT, shard_size=2)
    writer.add(None, keys=[], labels=[], skipped=["a", "b"])
    assert not (tmp_path / "tokens_00000.npy").exists()
    again = TokenWriter(tmp_path, layout=ONE, about=ABOUT, shard_size=2)
    assert again.inputs_done == 2
    again.add(indices(ONE, 1, 0), keys=["c"], labels=[0], skipped=[])
    index = again.finish()
    assert index["shards"] == [{"file": "tokens_00001.npy", "count": 1}] and index["skipped"] == ["a", "b"]
    assert [keys for keys, _, _ in TokenStore(tmp_path).batches(5)] == [["c"]]
