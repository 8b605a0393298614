"""Atomic file writes (temporary file, fsync, rename), and the folder of imtok's own caches."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """After a kill, a power cut or a full disk, `path` holds the old contents or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".writing_")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)  # mkstemp makes files that only their owner reads
        rename(Path(draft), path)
    except BaseException as error:
        Path(draft).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # a bare number of a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def rename(draft: Path, path: Path) -> None:
    """A file or a folder; after a power cut it has the one name or the other."""
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def cache_folder() -> Path:
    """IMTOK_CACHE, else XDG_CACHE_HOME/imtok, else ~/.cache/imtok."""
    own, shared = os.environ.get("IMTOK_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own or Path(shared or Path.home() / ".cache") / "imtok").expanduser()


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
