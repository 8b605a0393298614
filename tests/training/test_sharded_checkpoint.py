"""Folders of shards: whole or not at all, and read without running what is in them. One process holds every shard."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from imtok.common.distributed import is_sharded
from imtok.common.errors import UserError
from imtok.scripts.export import find_checkpoint
from imtok.training import checkpoint_paths
from imtok.training.checkpoint import FORMAT, read, write
from imtok.training.checkpoint_paths import all_numbered, is_checkpoint, point_to, remove_older
from imtok.training.fsdp2 import whole_state, whole_weights
from imtok.training.resume import arguments_for_resume
from imtok.training.sharded_checkpoint import SharedWriter, mapped, sharded_as

pytestmark = pytest.mark.usefixtures("one_process_group")


@pytest.fixture
def network() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    network = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2), nn.BatchNorm1d(2))
    fully_shard(network[0], mesh=mesh, reshard_after_forward=True)
    return network


def state_of(network: nn.Module) -> dict:
    rest = {"update": 7, "versions": {"imtok": "1"}, "rng": [{"torch": torch.arange(3)}], "config": {"a": [1, None]}}
    return {"format": FORMAT, "format_version": 1, "tokenizer": dict(network.state_dict()), **rest}


@pytest.fixture
def folder(network, tmp_path) -> Path:
    path = tmp_path / "checkpoints" / "update_00000007.ckpt"
    SharedWriter().job(path, state_of(network), write)()
    return path


def test_what_is_read_is_what_was_written(network, folder):
    assert sum(is_sharded(t) for t in network.state_dict().values()) == 2, "else there is nothing to test"
    state = read(folder)
    for name, value in whole_state(network).items():
        assert torch.equal(state["tokenizer"][name], value), name
    assert state["config"] == {"a": [1, None]} and state["rng"][0]["torch"].tolist() == [0, 1, 2]
    shapes = read(folder, shapes_only=True)["tokenizer"]
    assert shapes["0.weight"].is_meta and shapes["0.weight"].shape == (5, 3) and not shapes["1.weight"].is_meta
    assert sorted(p.name for p in folder.parent.iterdir()) == ["update_00000007.ckpt"], "no draft is left"


def test_a_change_after_the_copy_is_not_in_it(network, tmp_path):
    before = {name: tensor.clone() for name, tensor in whole_state(network).items()}
    job = SharedWriter().job(tmp_path / "update_00000007.ckpt", state_of(network), write)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.zero_()
    job()
    for name, value in read(tmp_path / "update_00000007.ckpt")["tokenizer"].items():
        assert torch.equal(value, before[name]), name


def test_the_folder_has_no_name_before_everything_is_in_it(network, tmp_path):
    path = tmp_path / "update_00000007.ckpt"
    seen: list[bool] = []

    def look_and_write(file: Path, state: dict) -> None:
        seen.append(path.exists())
        assert list(file.parent.glob("*.distcp")) and (file.parent / ".metadata").is_file()
        write(file, state)

    SharedWriter().job(path, state_of(network), look_and_write)()
    assert seen == [False] and is_checkpoint(path)

    def fail(file: Path, state: dict) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        SharedWriter().job(tmp_path / "update_00000009.ckpt", state_of(network), fail)()
    assert [p.name for p in tmp_path.iterdir()] == ["update_00000007.ckpt"]


def test_whole_tensors_of_a_file_are_taken_where_they_are_sharded(network):
    whole = {"tokenizer": whole_state(network)}
    own = {f"tokenizer/{name}": tensor for name, tensor in network.state_dict().items()}
    state = sharded_as(whole, own)["tokenizer"]
    assert is_sharded(state["0.weight"]) and not is_sharded(state["1.weight"])
    assert torch.equal(state["0.weight"].full_tensor(), whole["tokenizer"]["0.weight"])


def test_places_in_nested_containers():
    nested = {"a": {1: [2, (3, {"b": 4})]}, "c": {}}
    names: list[str] = []
    copy = mapped(lambda name, value: names.append(name) or value * 10, nested)
    assert copy == {"a": {1: [20, (30, {"b": 40})]}, "c": {}}
    assert names == ["a/1/0", "a/1/1/0", "a/1/1/1/b"]


@pytest.mark.parametrize("damage", ["no shard", "no index", "cut index", "cut shard", "cut file"])
def test_a_damaged_folder_is_one_line(folder, damage):
    names = {"shard": "__0_0.distcp", "index": ".metadata", "file": "state.ckpt"}
    how, what = damage.split()
    file = folder / names[what]
    file.unlink() if how == "no" else file.write_bytes(file.read_bytes()[:100])
    with pytest.raises((UserError, FileNotFoundError)) as caught:
        read(folder)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize("where", ["index", "entry"])
def test_no_code_of_a_folder_runs(folder, where, monkeypatch):
    monkeypatch.chdir(folder.parent)
    file = folder / ".metadata"
    metadata: object = Runs()
    if where == "entry":
        metadata = pickle.loads(file.read_bytes())
        metadata.planner_data = Runs()
    file.write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="cannot be read"):
        read(folder)
    assert not Path("ran").exists()


def test_an_entry_that_torch_would_unpickle_is_refused(folder):
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata

    metadata = pickle.loads((folder / ".metadata").read_bytes())
    name = next(iter(metadata.state_dict_metadata))
    metadata.state_dict_metadata[name] = BytesStorageMetadata()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="cannot be read"):
        read(folder)


def test_last_is_a_symlink_that_commands_follow(folder, monkeypatch):
    checkpoints = folder.parent
    point_to(checkpoints / "last.ckpt", folder)
    assert (checkpoints / "last.ckpt").is_symlink() and read(checkpoints / "last.ckpt")["update"] == 7
    run = checkpoints.parent
    for given in (f"ckpt_path={folder}", f"ckpt_path={run}"):
        last = checkpoints / "last.ckpt" if given.endswith(str(run)) else folder
        assert (
            arguments_for_resume([given])[-1] == f"ckpt_path='{last}'" or str(last) in arguments_for_resume([given])[-1]
        )
    assert find_checkpoint(run) == checkpoints / "last.ckpt" and find_checkpoint(folder) == folder
    newer = checkpoints / "update_00000008.ckpt"
    shutil.copytree(folder, newer)
    point_to(checkpoints / "last.ckpt", newer)
    remove_older(checkpoints, keep=1)
    assert all_numbered(checkpoints) == [newer] and read(checkpoints / "last.ckpt")["update"] == 7
    assert sorted(p.name for p in checkpoints.iterdir()) == ["last.ckpt", newer.name]


def test_an_old_folder_disappears_at_once(folder, monkeypatch):
    """A kill before all of it is removed leaves a draft, and nothing that looks like a checkpoint."""
    newer = folder.parent / "update_00000008.ckpt"
    shutil.copytree(folder, newer)
    monkeypatch.setattr(checkpoint_paths.shutil, "rmtree", lambda *_, **__: None)
    remove_older(folder.parent, keep=1)
    assert sorted(p.name for p in folder.parent.iterdir()) == [f".writing_{folder.name}", newer.name]


def test_inside_whole_weights_a_forward_needs_no_other_process(network, monkeypatch):
    x = torch.randn(4, 3)
    network.eval()
    expected = network(x)
    with whole_weights(network):
        monkeypatch.setattr(dist, "all_gather_into_tensor", None)  # what gathers blocks
        monkeypatch.setattr(dist, "all_gather_single", None, raising=False)
        assert not is_sharded(network[0].weight)
        assert torch.equal(network(x), expected) and torch.equal(network(x), expected)
    assert is_sharded(network[0].weight)
