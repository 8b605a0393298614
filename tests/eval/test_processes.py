"""Two processes with a share each write what one process writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch, torch.distributed as dist
sys.path.append(sys.argv[1])
from fake_tokenizer import FakeTokenizer, batches_of, pictures
from imtok.eval.evaluate import evaluate
from imtok.eval.protocol import Protocol
rank, world, out = int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=world)
batches = batches_of(pictures(11), 2)[rank::world]
protocol = Protocol(name="mini", extractor="randconv-64", metrics=("psnr", "ssim", "l1", "rfid", "codebook"))
evaluate(FakeTokenizer(), batches, protocol=protocol, out_dir=out, data_facts={"name": "folder"}, progress=False)
"""


def start(out: Path, rank: int, world: int) -> subprocess.Popen:
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(rank), str(world), str(out)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(180)
def test_two_processes_are_one(tmp_path: Path) -> None:
    for world in (1, 2):
        out = tmp_path / str(world)
        out.mkdir()
        for process in [start(out, rank, world) for rank in range(world)]:
            _, errors = process.communicate(timeout=150)
            assert process.returncode == 0, errors
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("1", "2"))
    assert two["num_images"] == 11 and two["codebooks"] == one["codebooks"]
    assert two["psnr"]["mean"] == pytest.approx(one["psnr"]["mean"], rel=1e-12)
    key = "fid[randconv-64]@11"
    assert two[key]["value"] == pytest.approx(one[key]["value"], rel=1e-9)
    shelves = [
        [part.split("dB</b>")[0] for part in (tmp_path / name / "report.html").read_text().split("<figcaption>")[1:10]]
        for name in ("1", "2")
    ]
    assert shelves[0] == shelves[1], "the same best, median and worst pictures"
