"""The table of docs/quantizers.md: cells from metrics, the rest of the page untouched."""

from pathlib import Path

import yaml

from imtok.benchmarks.tables import quantizers as table
from imtok.configs.compose import compose_config

ROOT = Path(__file__).resolve().parents[2]


def metrics(**codebook) -> dict:
    model = {"codebook_size": [2**20, 2**20], "tokens": 64, "bits_per_image": 2560.0}
    facts = {"usage": 0.25, "perplexity": 1000.4, "codebooks": {"a": codebook, "b": codebook}} if codebook else {}
    provenance = {"date": "2026-01-02 03:04 UTC", "git": "0abc", "packages": {"torch": "2.0"}}
    return {"model": model, "psnr": {"mean": 17.256}, "provenance": provenance, "num_images": 9} | {
        "psnr_mean_colour": 13.0,
        **facts,
    }


def test_a_row_says_what_usage_could_be_reached() -> None:
    assert table.row("big", metrics(uniform_ceiling=0.5)) == (
        "| `big` | 2 x 1048576 | 64 | 2560 | 17.26 | 25% of 50% | 1000 |"
    )
    assert "| 25% | 1000 |" in table.row("all", metrics(uniform_ceiling=1.0))
    assert table.row("none", metrics()).endswith("| 17.26 | - | - |")


def test_only_the_table_of_the_page_changes() -> None:
    page = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    made = table.with_table(page, table.written({"big": metrics(uniform_ceiling=0.5)}))
    assert made.startswith("before\n") and made.endswith(f"{table.END}\nafter\n") and "old" not in made
    assert "`big`" in made and "commit 0abc" in made and "experiment=quickstart" in made
    assert table.PAGE.read_text().count(table.BEGIN) == 1


def test_a_run_is_old_when_a_setting_has_changed(tmp_path) -> None:
    assert not table.is_current("vq", tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    config = compose_config("train", [*table.SETTINGS, "tokenizer/quantizer=vq"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert table.is_current("vq", tmp_path) and not table.is_current("bsq", tmp_path)
    config["optimizer"]["lr"] /= 2  # as when quickstart's changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert not table.is_current("vq", tmp_path)


def test_quantizers_of_two_streams_have_no_row() -> None:
    two = {path.stem for path in table.YAMLS.glob("*.yaml") if not table.reads_one_stream(path.stem)}
    assert two == {"joint_vq", "dual_residual_vq", "dual_sim_vq"}
