"""Images that could not be read: each named once in a file, and their number printed at the end."""

import sys
from collections.abc import Iterable
from pathlib import Path


class SkippedImages:
    """Feed it every batch; it appends new names to `skipped_images.txt` in the run folder as they turn up."""

    file_name = "skipped_images.txt"

    def __init__(self, *, folder: str | Path | None = None, fresh: bool = False):
        """fresh: what an earlier use left in the file does not count."""
        self.path = Path(folder) / self.file_name if folder is not None else None
        self.lines: dict[str, None] = {}  # a set that keeps the order
        if self.path is not None and fresh:
            self.path.unlink(missing_ok=True)
        if self.path is not None and self.path.exists():  # a resumed run names each file once, too
            self.lines = dict.fromkeys(self.path.read_text(errors="surrogateescape").splitlines())

    def __len__(self) -> int:
        return len(self.lines)

    def collect(self, batch: dict | Iterable[str]) -> None:
        given = batch.get("skipped", ()) if isinstance(batch, dict) else batch
        new = [line for line in dict.fromkeys(given) if line not in self.lines]
        self.lines.update(dict.fromkeys(new))
        if new and self.path is not None:
            with open(self.path, "a", errors="surrogateescape") as file:
                file.writelines(line + "\n" for line in new)

    def summary(self) -> str | None:
        """One line, or None when every image was read."""
        if not self.lines:
            return None
        where = f"; they are named in {self.path}" if self.path is not None else f"; first: {next(iter(self.lines))}"
        return f"{len(self)} image{'s' * (len(self) > 1)} could not be read and had to be skipped{where}"

    def report(self) -> None:
        if summary := self.summary():
            print(f"imtok: {summary}", file=sys.stderr)
