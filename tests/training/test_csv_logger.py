import csv

import pytest

from imtok.training import csv_logger
from imtok.training.csv_logger import CSVLogger


def rows(logger: CSVLogger) -> list[dict[str, str]]:
    with logger.path.open() as file:
        return list(csv.DictReader(file))


def test_one_row_an_update_and_new_columns_keep_old_rows(tmp_path):
    logger = CSVLogger(folder=str(tmp_path))
    logger.log_metrics({"train/a": 1.0}, step=1)
    logger.log_metrics({"train/a": 2.0}, step=2)
    logger.log_metrics({"val/b": 0.5}, step=2)
    logger.log_metrics({"train/a": 3}, step=3)
    assert rows(logger) == [
        {"update": "1", "train/a": "1", "val/b": ""},
        {"update": "2", "train/a": "2", "val/b": "0.5"},
        {"update": "3", "train/a": "3", "val/b": ""},
    ]


def test_cut_back_drops_later_rows_and_a_torn_one(tmp_path):
    logger = CSVLogger(folder=str(tmp_path))
    for n in range(1, 5):
        logger.log_metrics({"x": n, "y": n}, step=n)
    logger.path.write_text(logger.path.read_text() + "2,")
    again = CSVLogger(folder=str(tmp_path))
    again.cut_back(3)
    again.log_metrics({"x": 40}, step=4)
    assert [(r["update"], r["x"]) for r in rows(again)] == [("1", "1"), ("2", "2"), ("3", "3"), ("4", "40")]


def test_rows_of_a_full_disk_are_written_when_there_is_room(tmp_path, monkeypatch, capsys):
    logger = CSVLogger(folder=str(tmp_path))
    logger.log_metrics({"x": 1}, step=1)
    real = CSVLogger._put

    def full(self) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSVLogger, "_put", full)
    logger.log_metrics({"x": 2}, step=2)
    logger.log_metrics({"x": 3}, step=3)
    monkeypatch.setattr(CSVLogger, "_put", real)
    logger.log_metrics({"x": 4}, step=4)
    assert [r["x"] for r in rows(logger)] == ["1", "2", "3", "4"]
    assert capsys.readouterr().err.count("could not be written") == 1


@pytest.mark.parametrize("value", [1e-9, 123456.0])
def test_numbers_survive(tmp_path, value):
    logger = CSVLogger(folder=str(tmp_path))
    logger.log_metrics({"x": value}, step=1)
    assert float(rows(logger)[0]["x"]) == pytest.approx(value, rel=1e-5)
    assert csv_logger._text(3) == "3"


def test_a_late_value_finds_its_row(tmp_path):
    logger = CSVLogger(folder=str(tmp_path))
    for step in (10, 20, 30):
        logger.log_metrics({"x": step}, step=step)
        logger.log_metrics({"y": -step}, step=step - 1)  # of the update before, logged after
    assert [(r["update"], r["x"], r["y"]) for r in rows(logger)] == [
        (str(n), "" if n % 10 else str(n), str(-n - 1) if n % 10 else "") for n in (9, 10, 19, 20, 29, 30)
    ]
    logger.log_metrics({"z": 1})
    assert rows(logger)[-1] == {"update": "30", "x": "30", "y": "", "z": "1"}


def test_the_last_row_still_grows_after_a_resume(tmp_path):
    logger = CSVLogger(folder=str(tmp_path))
    for n in (1, 2, 3):
        logger.log_metrics({"x": n}, step=n)
    again = CSVLogger(folder=str(tmp_path))
    again.cut_back(2)
    again.log_metrics({"lr": 0.5}, step=2)
    again.log_metrics({"x": 3}, step=3)
    assert [tuple(r.values()) for r in rows(again)] == [("1", "1", ""), ("2", "2", "0.5"), ("3", "3", "")]


def test_a_row_is_replaced_in_place_and_finished_ones_are_left_alone(tmp_path):
    logger = CSVLogger(folder=str(tmp_path))
    logger.log_metrics({"x": 123456, "y": 1}, step=1)
    logger.log_metrics({"x": 1}, step=1)
    assert logger.path.read_text() == "update,x,y\n1,1,1\n", "a shorter text leaves nothing of the longer one"
    for step in (2, 3, 4):
        logger.log_metrics({"x": step, "y": step}, step=step)
    logger.path.write_text(logger.path.read_text().replace("1,1,1\n", "1,7,7\n"))  # by hand, of the same length
    logger.log_metrics({"x": 5, "y": 5}, step=5)
    assert [r["x"] for r in rows(logger)] == ["7", "2", "3", "4", "5"]
    assert CSVLogger(folder=str(tmp_path / "none")).cut_back(3) is None


def test_each_full_disk_has_a_line_of_its_own(tmp_path, monkeypatch, capsys):
    logger, real = CSVLogger(folder=str(tmp_path)), CSVLogger._put

    def full(self) -> None:
        raise OSError(28, "No space left on device")

    for step in range(1, 7):
        monkeypatch.setattr(CSVLogger, "_put", full if step in (2, 3, 5) else real)
        logger.log_metrics({"x": step}, step=step)
    assert [r["x"] for r in rows(logger)] == list("123456")
    assert capsys.readouterr().err.count("could not be written") == 2
