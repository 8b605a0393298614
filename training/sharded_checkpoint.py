"""Checkpoints of runs whose weights are sharded: a folder that every process writes its shards to.

Shards are written by torch.distributed.checkpoint, in the background, and read back for any number of processes. All
else is in one file beside them. The folder gets its name when everything is in it, so it is there whole or not at all.
"""

import pickle
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, async_save, load
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from ..common.distributed import is_sharded, own_shard, process_count, rank
from ..common.files import rename
from .background import Job, on_cpu
from .checkpoint_paths import WHOLE_PART

MARK = "imtok.sharded"  # {MARK: name} stands where a sharded tensor was


class SharedWriter:
    """Its processes agree over the CPU and in a group of their own, while the others compute."""

    def __init__(self) -> None:
        self.group: Any = dist.new_group(backend="gloo")

    def job(self, path: Path, state: Mapping[str, Any], write: Callable[[Path, Any], object]) -> Job:
        """Copies everything now; what is returned ends when the folder has its name. write: for the one file."""
        shards: dict[str, Tensor] = {}

        def marked(name: str, value: Any) -> Any:
            if not (isinstance(value, Tensor) and is_sharded(value)):
                return on_cpu(value) if rank() == 0 else None
            shards[name] = value
            return {MARK: name}

        whole = mapped(marked, state)
        draft = path.parent / f".writing_{path.name}"
        if rank() == 0:
            shutil.rmtree(draft, ignore_errors=True)
        dist.barrier(self.group)
        written: Any = async_save(shards, storage_writer=FileSystemWriter(draft), process_group=self.group)

        def finish() -> None:
            try:
                _wait_for(written)
                if rank() == 0:
                    write(draft / WHOLE_PART, whole)
                    shutil.rmtree(path, ignore_errors=True)  # of a run that went on from before this update
                    rename(draft, path)
            except BaseException:
                if rank() == 0:
                    shutil.rmtree(draft, ignore_errors=True)
                raise

        return finish


def _wait_for(written: Future) -> None:
    """All processes raise where one could not write."""
    try:
        written.result()
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        full = next((cause for cause in causes if isinstance(cause, OSError)), None)
        raise (full or RuntimeError(str(causes[0]))) from error


def mapped(change: Callable[[str, Any], Any], value: Any, name: str = "") -> Any:
    """Nested containers with `change(name, leaf)` in the place of each leaf; names are paths with slashes."""
    if isinstance(value, Mapping) and set(value) != {MARK}:
        return {k: mapped(change, v, f"{name}/{k}".removeprefix("/")) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(mapped(change, v, f"{name}/{i}") for i, v in enumerate(value))
    return change(name, value)


def with_shapes(state: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the one file holds, sharded tensors as tensors without data."""
    known = PlainReader(folder).read_metadata().state_dict_metadata

    def shape(name: str, value: Any) -> Any:
        if not _is_mark(value):
            return value
        found = known[value[MARK]]
        assert isinstance(found, TensorStorageMetadata)
        return torch.empty(found.size, dtype=found.properties.dtype, device="meta")

    return mapped(shape, state)


def with_values(state: Mapping[str, Any], folder: Path, own: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors without data are read: those that are sharded here, of `own`, only as far as this process holds them."""
    wanted: dict[str, Tensor] = {}

    def target(name: str, value: Any) -> Any:
        if not (isinstance(value, Tensor) and value.is_meta):
            return value
        here = like(name, value, own)
        wanted[name] = torch.empty_like(here) if here is not None else torch.empty_like(value, device="cpu")
        return wanted[name]

    filled = mapped(target, state)
    if not wanted:
        return filled
    reader = PlainReader(folder)
    reader.read_metadata()  # torch would print a page about one that is damaged
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(wanted, storage_reader=reader, no_dist=True)
    except CheckpointException as error:  # no Exception, and a page long
        raise RuntimeError(str(next(iter(error.failures.values()))[0])) from error
    return filled


def sharded_as(state: Mapping[str, Any], own: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whole tensors of a file, each process's share of them where they are sharded here."""

    def share(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or (here := like(name, value, own)) is None or is_sharded(value):
            return value
        filled = torch.empty_like(here)
        mine = own_shard(filled)
        if mine.numel():
            mine.copy_(value.chunk(process_count())[rank()])
        return filled

    return mapped(share, state)


def like(name: str, value: Tensor, own: Mapping[str, Tensor]) -> Tensor | None:
    """The sharded tensor that `value` belongs to here; that of a parameter, for what its optimizer keeps of it."""
    here = own.get(name, own.get(name.rpartition("/")[0]))
    return here if here is not None and is_sharded(here) and here.shape == value.shape else None


def _is_mark(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {MARK}


class PlainReader(FileSystemReader):
    """Reads no other classes than those of a tensor's place and shape: the index of a folder is a pickle."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("no index of tensors")
        for entry in metadata.state_dict_metadata.values():
            if not isinstance(entry, TensorStorageMetadata):  # torch would unpickle it, whatever it is
                raise pickle.UnpicklingError("something else than tensors")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in INDEX_CLASSES or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an index of tensors")


_METADATA = ("Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex")
INDEX_CLASSES = {
    *(("torch.distributed.checkpoint.metadata", name) for name in (*_METADATA, "StorageMeta", "_MEM_FORMAT_ENCODING")),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}
