"""A number that a file other than the published one made is marked wherever it is shown."""

import json
from pathlib import Path

import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures

from imtok.eval.evaluate import evaluate
from imtok.eval.protocol import Protocol
from imtok.losses.lpips import LPIPSNet


def test_an_edge_detector_passed_as_lpips_is_marked(tmp_path: Path, capsys) -> None:
    file = tmp_path / "edges.pth"
    torch.save(LPIPSNet(net="vgg", weights="random").features.state_dict(), file)
    digits = LPIPSNet(net="vgg", weights=str(file)).origin.sha256[:8]
    protocol = Protocol(metrics=("psnr", "lpips_vgg"), probes="none", lpips_vgg=str(file))
    evaluate(
        FakeTokenizer(),
        batches_of(pictures(3)),
        protocol=protocol,
        out_dir=tmp_path,
        data_facts={"name": "folder"},
        progress=False,
    )
    assert f"lpips_vgg[{digits}]: {file}" in capsys.readouterr().out
    results = json.loads((tmp_path / "metrics.json").read_text())
    assert f"lpips_vgg[{digits}]" in results and "lpips_vgg" not in results and results["random_weights"] == []
    for report in ("report.md", "report.html"):
        assert f"LPIPS vgg [{digits}]" in (tmp_path / report).read_text()
