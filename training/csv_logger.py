"""metrics.csv: append-only, one row an update, cut back to the checkpoint when a run goes on."""

import csv
import io
from argparse import Namespace
from bisect import insort
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from ..common.console import say
from ..common.errors import one_line
from ..common.files import write_text


class CSVLogger(Logger):
    """Columns: update, then names in the order they first came. Values logged for one update share a row.

    A value for the update before the last one still finds its place: other callbacks log at a time of their own.
    """

    def __init__(self, *, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.columns = ["update"]
        self.rows: list[dict[str, str]] = []  # the last two, which may still grow, and those a full disk refused
        self.rows_start_at = 0
        self.complained = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """config.yaml has them."""

    @rank_zero_only
    def cut_back(self, update: int) -> None:
        """Drop rows that the run wrote after the checkpoint it goes on from; a half-written last line as well."""
        if not self.path.exists():
            return
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            self.columns = list(reader.fieldnames or ["update"])
            whole = [row for row in reader if (row["update"] or "").isdigit() and None not in row.values()]
        kept = [row for row in whole if int(row["update"]) <= update]
        self.rows = kept[-1:]  # may still grow: LearningRateMonitor logs an update when the next one begins
        self._rewrite(self.columns, kept[:-1])

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        update = str(step) if step is not None else self.rows[-1]["update"] if self.rows else "0"
        row = {"update": update} | {k: _text(v) for k, v in metrics.items()}
        found = next((old for old in self.rows if old["update"] == update), None)
        if found is not None:
            found |= row
        else:
            if not self.rows:
                self.rows_start_at = self.path.stat().st_size if self.path.exists() else 0
            elif len(self.rows) > 1 and not self.complained:
                self.rows_start_at += len(_lines(self.columns, [self.rows.pop(0)]).encode())
            insort(self.rows, row, key=lambda r: int(r["update"]))
        try:
            self._put()
            self.complained = False
        except OSError as error:
            if not self.complained:
                say(f"metrics.csv could not be written, training goes on: {one_line(error)}", error=True)
            self.complained = True

    def _put(self) -> None:
        new = dict.fromkeys(name for row in self.rows for name in row if name not in self.columns)
        if not new and self.path.exists():
            with self.path.open("r+", newline="") as file:
                file.seek(self.rows_start_at)
                file.write(_lines(self.columns, self.rows))
                file.truncate()
            return
        before = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                before = [r for r in csv.DictReader(file) if r["update"] not in {row["update"] for row in self.rows}]
        self._rewrite([*self.columns, *new], before)

    def _rewrite(self, columns: list[str], before: list[dict[str, str]]) -> None:
        head = ",".join(columns) + "\n" + _lines(columns, before)
        write_text(self.path, head + _lines(columns, self.rows))
        self.columns, self.rows_start_at = columns, len(head.encode())


def _lines(columns: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, restval="", lineterminator="\n").writerows(rows)
    return text.getvalue()


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{float(value):.6g}"
