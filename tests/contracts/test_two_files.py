"""A new quantizer, loss, metric or data source is a class and a YAML, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

PARTS = {
    "plugin/steps.py": """
from torch import Tensor
from imtok.tokenizers.quantizers.vq import VQ

class Steps(VQ):
    def __init__(self, *, dim: int, codebook_size: int = 16) -> None:
        super().__init__(dim=dim, codebook_size=codebook_size)
""",
    "plugin/blue.py": """
from imtok.losses.base import LossTerm

class Blue(LossTerm):
    needs_reconstruction = True

    def forward(self, batch, output):
        return (output.reconstruction[:, 2] - batch["image"][:, 2]).abs().mean()
""",
    "plugin/gap.py": """
import torch
from imtok.eval.metrics.base import Metric, Quantity

class Gap(Metric):
    quantities = {"gap": Quantity("Largest gap", unit="levels", better="lower", decimals=1)}

    def __init__(self, **options):
        super().__init__(**options)
        self.add_state("gap", torch.zeros(()), dist_reduce_fx="max")

    def update(self, reference, reconstruction):
        self.gap = torch.maximum(self.gap, (reference.float() - reconstruction.float()).abs().max())

    def measure(self):
        return {"gap": float(self.gap)}
""",
    "plugin/ramps.py": """
import torch
from imtok.data.source import Images, Joined, Source, Splits

class RampImages(Images):
    def __init__(self, first, count):
        self.numbers = range(first, first + count)

    def __len__(self):
        return len(self.numbers)

    def key(self, index):
        return f"ramp{self.numbers[index]}"

    def read(self, index, *, at_least=None):
        side = torch.arange(64) * (1 + self.numbers[index] % 3)
        return side.clamp(max=255).to(torch.uint8).expand(3, 64, 64).clone()

class Ramps(Source):
    name = "ramps"

    def __init__(self, *, count: int):
        self.count = count

    def split_sources(self):
        train, val = RampImages(0, self.count), RampImages(self.count, 4)
        return Splits(train=train, val=val, all=Joined(train, val))

    def describe(self):
        return {"name": self.name, "root": None, "split": "by number"}
""",
}
YAMLS = {
    "yaml/tokenizer/quantizer/steps.yaml": "_target_: plugin.steps.Steps\ncodebook_size: 8\n",
    "yaml/loss/blue.yaml": "blue: {weight: 2.0, term: {_target_: plugin.blue.Blue}}\n",
    "yaml/metric/gap.yaml": "_target_: plugin.gap.Gap\n",
    "yaml/data/ramps.yaml": (
        "defaults: [/shared/data@_here_, _self_]\n"
        "source: {_target_: plugin.ramps.Ramps, count: '${data.count}'}\ncount: 12\n"
    ),
}
WORDS = [
    "--config-dir=yaml",
    "experiment=quickstart",
    "tokenizer/quantizer=steps",
    "loss=[l1,codebook,commit,blue]",
    "data=ramps",
    "data.count=20",
    "protocol=mini",
    "protocol.metrics=[psnr,gap]",
    "debug=tiny",
    "trainer.threads=1",
    "hydra.run.dir=run",
]


def test_four_parts_of_a_package_are_eight_files(tmp_path: Path) -> None:
    assert len(PARTS) + len(YAMLS) == 8
    for name, text in (PARTS | YAMLS | {"plugin/__init__.py": ""}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = "import sys; from imtok.scripts.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", *WORDS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    head, *rows = (run / "metrics.csv").read_text().splitlines()
    assert "train/blue" in head.split(",") and len(rows) >= 2
    results = json.loads((run / "metrics.json").read_text())
    assert 0 < results["gap"] <= 255 and results["data"]["name"] == "ramps"
    assert results["model"]["codebook_size"] == 8
    for report in ("report.md", "report.html"):
        assert "Largest gap" in (run / report).read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["source"]["count"] == 20
