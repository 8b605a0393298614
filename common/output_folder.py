"""Where a command may write: a new or empty place, or one with its own record; anything else takes --overwrite."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .errors import UserError

DRAFTS = ".writing_"  # what an interrupted write of ours leaves
UNSEEN = (".DS_Store", "Thumbs.db", "desktop.ini")  # put there by file managers


def add_overwrite(parser: argparse.ArgumentParser, *, what: str = "--out holds files already") -> None:
    text = f"write even where {what}; files of the names written here are replaced, no others touched"
    parser.add_argument("--overwrite", action="store_true", help=text)


def check_folder(
    folder: Path,
    *,
    key: str = "--out",
    overwrite: bool,
    remedy: str = "--overwrite",
    is_own: Callable[[Path], bool] | None = None,
) -> None:
    """Before any work. is_own: whether the folder has the record of this command's earlier output, to go on with or to
    replace; without one only an empty folder will do.
    """
    _check_parents(folder, key)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{key}={folder}: this is a file; name a folder")
    if overwrite or (is_own is not None and folder.is_dir() and is_own(folder)):
        return
    if found := first_file(folder):
        raise UserError(f"{key}={folder} holds {found}; take an empty folder, or {remedy} to replace what is there")


def check_file(file: Path, *, key: str, overwrite: bool) -> None:
    """Before any work."""
    _check_parents(file, key)
    if file.is_dir():
        raise UserError(f"{key}={file}: this is a folder; name a file")
    if file.exists() and not overwrite:
        raise UserError(f"{key}={file} is there already; take another name, or --overwrite to replace it")


def first_file(folder: Path) -> str | None:
    """The first name in a folder, hidden ones last; None where it is empty or not there."""
    if not folder.is_dir():
        return None
    names = [p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name not in UNSEEN]
    return min((n for n in names if not n.startswith(DRAFTS)), key=lambda n: (n.startswith("."), n), default=None)


def _check_parents(path: Path, key: str) -> None:
    above = next((parent for parent in path.parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise UserError(f"{key}={path}: {above} is a file; name a place in a folder")
