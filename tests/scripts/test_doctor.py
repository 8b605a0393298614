"""Verdicts on made-up runs, one illness each."""

import csv
import math

import pytest

from imtok.common.errors import UserError
from imtok.scripts.doctor import main
from imtok.scripts.shared.run_verdict import check_run

HEALTHY = {
    "train/l1": lambda n: 0.5 / (1 + n / 10),
    "train/usage": lambda n: min(0.9, n / 20),
    "train/gan_discriminator": lambda n: 0.9,
    "train/gan_weight": lambda n: 0.8,
    "train/logits_real": lambda n: 0.4,
    "train/logits_fake": lambda n: -0.4,
    "train/skipped_updates": lambda n: 0,
    "train/data_wait": lambda n: 0.02,
    "train/images_per_second": lambda n: 30.0,
}
ILL = {
    "learning": ({"train/l1": lambda n: 0.5}, "optimizer.lr"),
    "codebook": ({"train/usage": lambda n: 0.02}, "tokenizer.quantizer"),
    "codebook ": ({"train/usage": lambda n: 0.9 - n / 80}, "optimizer.lr"),
    "GAN weight": ({"train/gan_weight": lambda n: 10 ** (n / 10)}, "adversary.adaptive"),
    "discriminator": ({"train/gan_discriminator": lambda n: 0.9 * 0.7**n}, "adversary."),
    "discriminator ": ({"train/logits_real": lambda n: 2.0 * n}, "adversary."),
    "numbers": ({"train/skipped_updates": lambda n: n}, "trainer.precision"),
    "loading": ({"train/data_wait": lambda n: 0.6}, "data.num_workers"),
}


def write_run(folder, columns, rows=50):
    folder.mkdir()
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["update", *columns])
        for n in range(rows):
            writer.writerow([n * 10, *(column(n) for column in columns.values())])
    return folder


def test_healthy_run(tmp_path, capsys):
    lines = check_run(write_run(tmp_path / "run", HEALTHY))
    assert [line.name for line in lines if not line.ok] == [] and len(lines) == 6
    assert main([str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("illness", ILL)
def test_each_illness_is_found_alone_and_has_a_remedy(illness, tmp_path, capsys):
    changed, key = ILL[illness]
    folder = write_run(tmp_path / "run", HEALTHY | changed)
    (bad,) = [line for line in check_run(folder) if not line.ok]
    assert bad.name == illness.strip() and key in bad.remedy
    assert main([str(folder)]) == 1
    assert key in capsys.readouterr().out


def test_nan_losses_and_sparse_columns(tmp_path):
    folder = write_run(
        tmp_path / "run", {"train/l1": lambda n: math.nan if n > 30 else 0.5, "train/usage": lambda n: ""}
    )
    (line,) = check_run(folder)
    assert line.name == "learning" and not line.ok


def test_a_young_run_is_not_judged(tmp_path):
    lines = check_run(write_run(tmp_path / "run", {"train/l1": lambda n: 1.0}, rows=2))
    assert [line.ok for line in lines] == [None]


def test_not_a_run(tmp_path):
    with pytest.raises(UserError, match=r"no metrics\.csv"):
        main([str(tmp_path)])
    with pytest.raises(UserError, match="no such run folder"):
        main([str(tmp_path / "nothing")])


def test_machine(capsys):
    assert main([]) in (0, 1)
    said = capsys.readouterr().out
    for word in ("python", "torch", "cores", "GiB free", "vgg16", "inception"):
        assert word in said
