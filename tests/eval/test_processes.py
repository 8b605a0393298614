"""Two processes with a share each, or with one that has nothing, write what one process writes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import importlib.util, sys
from pathlib import Path
import torch, torch.distributed as dist
here, rank, world, share, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5])
sys.path[:0] = [str(here), str(here.parents[0])]
from fake_tokenizer import batches_of, pictures
from test_processes import variable_tokenizer
from imtok.eval.evaluate import evaluate
from imtok.eval.protocol import Protocol
torch.set_num_threads(1)
if world > 1:
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=world)
batches = batches_of(pictures(11), 2)
batches = batches[rank::world] if share == "even" else batches if rank == 0 else []
metrics = ("psnr", "ssim", "l1", "rfid", "kid", "precision_recall", "codebook")
protocol = Protocol(name="mini", extractor="randconv-64", metrics=metrics, small=True)
facts = {"name": "folder"}
evaluate(
    variable_tokenizer(), batches, protocol=protocol, out_dir=out, data_facts=facts, progress=False, curve_images=None
)
"""


def variable_tokenizer() -> Any:
    from imtok.common.build import build

    name, place = "imtok.tokenizers.variable_length_of_the_tests", Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location(name, place / "variable_length.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    node = {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 32,
        "encoder": {"_target_": f"{name}.CosineEncoder", "num_tokens": 4},
        "quantizer": {"_target_": f"{name}.Steps"},
        "decoder": {"_target_": f"{name}.CosineDecoder", "image_size": 32},
        "token_dropout": {"_target_": f"{name}.CutTail"},
    }
    return build(node, key="tokenizer").eval()


def start(out: Path, rank: int, world: int, share: str) -> subprocess.Popen:
    words = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(rank), str(world), share, str(out)]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_are_one(tmp_path: Path) -> None:
    found, shelves = {}, {}
    for name, world, share in (("one", 1, "even"), ("two", 2, "even"), ("idle", 2, "first only")):
        out = tmp_path / name
        out.mkdir()
        for process in [start(out, rank, world, share) for rank in range(world)]:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
            assert "Warning" not in errors
        found[name] = json.loads((out / "metrics.json").read_text())
        page = (out / "report.html").read_text().split("Best, median and worst")[1]
        shelves[name] = [part.split("dB</b>")[0] for part in page.split("<figcaption>")[1:10]]
    one = found["one"]
    assert one["num_images"] == 11 and one["curve"]["images"] == 11
    assert one["curve"]["points"][0]["kid[randconv-64]"] > one["curve"]["points"][-1]["kid[randconv-64]"]
    for name in ("two", "idle"):
        assert shelves[name] == shelves["one"], "the same best, median and worst images"
        for key in set(one) - {"provenance", "seconds", "images_per_second", "protocol"}:
            same(found[name][key], one[key], key)


def same(given: Any, expected: Any, key: str) -> None:
    if isinstance(expected, dict):
        assert given.keys() == expected.keys(), key
        for name in expected.keys() - {"seconds"}:
            same(given[name], expected[name], f"{key}.{name}")
    elif isinstance(expected, list):
        assert len(given) == len(expected), key
        for number, (a, b) in enumerate(zip(given, expected, strict=True)):
            same(a, b, f"{key}[{number}]")
    elif isinstance(expected, float):
        assert given == pytest.approx(expected, rel=1e-5, abs=1e-6), key
    else:
        assert given == expected, key
