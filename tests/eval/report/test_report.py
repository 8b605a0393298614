"""The page stands alone, carries protocol, count and marks, and survives hostile names."""

import csv
import re
from pathlib import Path

import pytest
from fake_tokenizer import FakeTokenizer, batches_of, pictures
from pages import Balanced

from imtok.eval.evaluate import evaluate
from imtok.eval.protocol import Protocol
from imtok.eval.report.charts import _nice_ticks, curve_chart, histogram_chart, rank_chart
from imtok.eval.report.rows import metric_rows, model_title
from imtok.eval.report.training_curves import MAX_POINTS, read_curves


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["update", "train/total", "train/psnr", "val/psnr"])
        rows.writerows([[u, 1 / u, 10 + u / 100, 9 + u / 100 if u % 100 == 0 else ""] for u in range(1, 1001)])
    return folder


@pytest.fixture(scope="module")
def page(run_dir: Path) -> tuple[dict, str, str]:
    protocol = Protocol(name="mini", extractor="randconv-64", metrics=("psnr", "ssim", "l1", "rfid", "codebook"))
    batches = batches_of(pictures(9))
    batches[0]["key"][0] = '"><script>alert(1)</script>.png'
    results = evaluate(
        FakeTokenizer(),
        batches,
        protocol=protocol,
        out_dir=run_dir,
        run_dir=run_dir,
        data_facts={"name": "folder"},
        model_facts={"name": "<b>model</b> $$ $title", "experiment": "exp"},
        progress=False,
    )
    return results, (run_dir / "report.html").read_text(), (run_dir / "report.md").read_text()


def test_the_page_is_one_file_without_script_or_network(page: tuple[dict, str, str]) -> None:
    html = page[1]
    assert "<script" not in html and "<link" not in html and "@import" not in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", html) and "url(" not in html
    parser = Balanced()
    parser.feed(html)
    assert parser.open == []


def test_every_number_stands_beside_its_count_and_protocol(page: tuple[dict, str, str]) -> None:
    results, html, markdown = page
    label = results["protocol"]["label"]
    table = html.split('class="metrics"')[1].split("</table>")[0]
    rows = list(metric_rows(results))
    assert len(rows) > 8 and table.count(f"<code>{label}</code>") == len(rows)
    assert table.count('<td class="num small">9</td>') == len(rows)
    assert sum(f"| 9 | `{label}` |" in line for line in markdown.splitlines()) == len(rows)
    for row in rows:
        assert row.value in markdown and row.value.split(" ")[0] in table


def test_random_numbers_are_marked_and_only_they(page: tuple[dict, str, str]) -> None:
    results, html, markdown = page
    table = html.split('class="metrics"')[1].split("</table>")[0]
    assert table.count("random weights") == 1
    assert [row.name for row in metric_rows(results) if row.random] == ["fid[randconv-64]@9"]
    assert markdown.count("[random weights]") == 1 and "Random weights" in html.split("<main>")[0]


def test_curves_of_the_run_stand_beside(page: tuple[dict, str, str], run_dir: Path) -> None:
    curves = read_curves(run_dir / "metrics.csv")
    assert list(curves) == ["total", "psnr"] and [s for s, _ in curves["psnr"]] == ["train", "val"]
    train, val = (points for _, points in curves["psnr"])
    assert len(train) <= MAX_POINTS and len(val) == 10 and val[-1] == (1000.0, 19.0)
    assert train[-1][0] == 1000 and "The training run" in page[1]


def test_a_run_without_curves_and_broken_cells(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "metrics.csv") == {}
    (tmp_path / "metrics.csv").write_text("update,train/x\n1,nan\n2,0.5\nthree,1\n4\n")
    assert read_curves(tmp_path / "metrics.csv") == {"x": [("train", [(2.0, 0.5)])]}


def test_names_of_strangers_are_text(page: tuple[dict, str, str]) -> None:
    html = page[1]
    assert "&lt;b&gt;model&lt;/b&gt; $$ $title" in html and "<b>model</b>" not in html


def test_ticks_are_round_and_charts_survive_degenerate_data() -> None:
    assert _nice_ticks(16.1, 23.4) == [18, 20, 22]
    assert _nice_ticks(0, 1) == pytest.approx([0, 0.5, 1.0]) or _nice_ticks(0, 1)[1] in (0.2, 0.25)
    for svg in (
        histogram_chart([5], 10, 10.5, x_label="x"),
        rank_chart([("a", [[1, 7]])], uniform=7, x_label="x", y_label="y"),
        curve_chart([("train", [(1, 2.0)])], x_label="u"),
        curve_chart([("train", [(1, 2.0), (2, 2.0)])], x_label="u"),
    ):
        assert svg.startswith("<svg") and "nan" not in svg and "inf" not in svg.replace("info", "")


def test_the_title_is_the_experiment_where_the_export_knows_it() -> None:
    model = {"class": "Tokenizer"}
    assert model_title(model) == "Tokenizer"
    assert model_title(model | {"experiment": "exp"}) == "exp"  # the report at the end of a training
    assert model_title(model | {"experiment": "exp", "name": "exp/2026-11-21"}) == "exp/2026-11-21"
    assert model_title(model | {"experiment": "exp", "name": "photos"}) == "exp (photos)"
