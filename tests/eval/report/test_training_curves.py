"""Series of a metrics.csv: their order, and how many points are shown."""

import csv
from pathlib import Path

import pytest

from imtok.eval.report.training_curves import read_columns, read_curves


def written(folder: Path, rows: list[list]) -> Path:
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "metrics.csv"


def test_losses_come_first(tmp_path: Path) -> None:
    names = ["zebra", "ant", "perplexity", "usage", "gan_weight", "gan_discriminator", "gan_generator"]
    names += ["lpips", "l2", "l1", "psnr", "total"]
    file = written(tmp_path, [["update", "seconds", *(f"train/{n}" for n in names)], [1, 2, *range(len(names))]])
    expected = [*reversed(names[2:]), "ant", "zebra"]
    assert list(read_curves(file)) == expected
    assert "seconds" in read_columns(file) and "update" in read_columns(file)


@pytest.mark.parametrize(("count", "together"), [(1, 1), (240, 1), (241, 2), (480, 2), (481, 3), (1000, 5)])
def test_many_updates_become_means_of_neighbours(tmp_path: Path, count: int, together: int) -> None:
    values = [(7 * u) % 31 for u in range(count)]
    file = written(tmp_path, [["update", "val/x", "train/x"], *([u, 1, v] for u, v in enumerate(values))])
    (train, points), (val, flat) = read_curves(file)["x"]
    assert (train, val) == ("train", "val") and {y for _, y in flat} == {1.0}
    groups = [list(range(i, min(i + together, count))) for i in range(0, count, together)]
    assert points == [(g[-1], pytest.approx(sum(values[u] for u in g) / len(g))) for g in groups]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    file = written(tmp_path, [["update", "train/a", "b"], [1, "nan", 5], [2, 3, "", 9], ["", 4, 4], [3, "inf", "x"]])
    columns = read_columns(file)
    assert [u for u, _ in columns["train/a"]] == [1, 2, 3] and columns["b"] == [(1.0, 5.0)]
    assert read_curves(file) == {"a": [("train", [(2.0, 3.0)])]}
