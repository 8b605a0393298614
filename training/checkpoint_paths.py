"""Where a run keeps its checkpoints: a file each, or with fsdp2 a folder each. Imports no torch."""

import os
import shutil
from pathlib import Path

WHOLE_PART = "state.ckpt"  # of a folder: all that is not sharded, and the names of what is
DRAFTS = ".writing_*"  # as write_atomically names them


def is_checkpoint(path: Path) -> bool:
    return path.is_file() or (path / WHOLE_PART).is_file()


def numbered(folder: Path, update: int) -> Path:
    return folder / f"update_{update:08d}.ckpt"


def all_numbered(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob("update_*.ckpt") if is_checkpoint(path))


def point_to(last: Path, newest: Path) -> None:
    """To a file a hard link: no second copy, and a file of its own when the numbered one is removed. Else a symlink."""
    draft = last.with_suffix(".linking")
    draft.unlink(missing_ok=True)
    if newest.is_dir():
        draft.symlink_to(newest.name)
    else:
        try:
            os.link(newest, draft)
        except OSError:  # file systems without hard links
            draft.write_bytes(newest.read_bytes())
    os.replace(draft, last)


def remove_older(folder: Path, *, keep: int) -> None:
    for old in all_numbered(folder)[:-keep]:
        if old.is_dir():
            away = folder / f".writing_{old.name}"  # out of sight at once; the files after that
            shutil.rmtree(away, ignore_errors=True)
            os.replace(old, away)
            shutil.rmtree(away)
        else:
            old.unlink()


def remove_drafts(folder: Path) -> None:
    """What writers that were killed have left."""
    for draft in folder.glob(DRAFTS):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
