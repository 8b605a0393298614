"""The experiments that a newcomer runs first learn what their YAMLs promise, on held-out images; minutes each."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "gain_db", "usage"), [("quickstart", 6.0, 0.5), ("quickstart_1d", 4.0, 0.3)])
def test_a_quickstart_beats_the_mean_colour_with_its_codebook_in_use(tmp_path, name, gain_db, usage) -> None:
    words = [f"experiment={name}", "hydra.run.dir=run", "trainer.threads=1", "protocol=mini"]
    words.append("protocol.metrics=[psnr,codebook]")
    command = [sys.executable, "-m", "imtok.scripts.cli", "train", *words]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found["psnr"]["mean"] > found["psnr_mean_colour"] + gain_db
    assert found["usage"] > usage
