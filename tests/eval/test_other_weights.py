"""A number that a file other than the published one made is marked wherever it is shown."""

import torch

from imtok.eval.networks import resolve_networks
from imtok.eval.protocol import Protocol
from imtok.losses.lpips import LPIPSNet


def test_an_edge_detector_passed_as_lpips_is_marked(tmp_path) -> None:
    network = LPIPSNet(net="alex", weights="random")
    torch.save(network.features.state_dict(), tmp_path / "edges.pth")
    protocol = Protocol(metrics=("lpips_alex",), lpips_alex=str(tmp_path / "edges.pth"))
    found = resolve_networks(protocol, device=torch.device("cpu"))
    digits = LPIPSNet(net="alex", weights=protocol.lpips_alex).origin.sha256[:8]
    assert list(found.lpips) == [f"lpips_alex[{digits}]"] and found.random == []
    assert any("not the published file" in line for line in found.lines)
