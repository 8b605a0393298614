import hashlib
import io

import pytest
import torch

from imtok.common import weights as pretrained_file
from imtok.common.errors import MissingWeights
from imtok.common.weights import torch_hub_file


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves b'weights' under any address; TORCH_HOME is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(pretrained_file.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"weights"))
    return tmp_path / "hub/checkpoints"


def test_fetched_checked_and_kept(server):
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    path = torch_hub_file(f"https://example.org/net-{digits}.pth")
    assert path == server / f"net-{digits}.pth" and path.read_bytes() == b"weights"
    assert torch_hub_file(f"https://elsewhere.org/net-{digits}.pth") == path  # found, not fetched again
    assert path.parent == server and str(path).startswith(torch.hub.get_dir())


def test_a_damaged_file_is_not_kept(server):
    with pytest.raises(MissingWeights, match="damaged"):
        torch_hub_file("https://example.org/net-00000000.pth")
    assert not list(server.iterdir())


def test_offline_asks_nobody(server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(pretrained_file.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(MissingWeights, match="HF_HUB_OFFLINE"):
        torch_hub_file("https://example.org/net-12345678.pth")
