"""Finding, checking, reading and fitting of weight files."""

import hashlib
import io

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from imtok.common import weights
from imtok.common.errors import MissingWeights, UserError
from imtok.common.frozen import Frozen
from imtok.common.weights import Published, Weights, fill, find, left_out, load, misfit, origins, read, torchvision_file

CONTENT, OTHER = b"weights", b"edges"
DIGEST, OTHER_DIGEST = (hashlib.sha256(content).hexdigest() for content in (CONTENT, OTHER))


def published(digits: str = DIGEST[:8]) -> Published:
    return Published(url=f"https://example.org/net-{digits}.pth", sha256=digits)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves b'weights' under any address; TORCH_HOME is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(CONTENT))
    return tmp_path / "hub/checkpoints"


def test_fetched_checked_and_kept(server, monkeypatch) -> None:
    found = find("pretrained", published=published())
    assert found.path == server / f"net-{DIGEST[:8]}.pth" and found.path.read_bytes() == CONTENT
    assert found.published and not found.random and found.label == "" and found.sha256 == DIGEST
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *a, **k: pytest.fail("fetched again"))
    assert find("pretrained", published=published()) == found
    assert str(found.path).startswith(torch.hub.get_dir())


def test_a_damaged_download_is_not_kept(server) -> None:
    with pytest.raises(MissingWeights, match=r"^weights=pretrained: net-00000000\.pth is not here .*damaged"):
        find("pretrained", published=published("00000000"))
    assert not list(server.iterdir())


def test_offline_asks_nobody(server, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(MissingWeights, match=f"not in {server}; .*HF_HUB_OFFLINE=1.*; use weights=PATH of a file"):
        find("pretrained", published=published())


def test_another_file_than_the_published_one_is_marked(tmp_path, server) -> None:
    same, other = tmp_path / "same.bin", tmp_path / "other.bin"
    same.write_bytes(CONTENT)
    other.write_bytes(OTHER)
    assert find(str(same), published=published()).label == ""
    found = find(str(other), published=published())
    assert (found.published, found.sha256, found.label) == (False, OTHER_DIGEST, OTHER_DIGEST[:8])
    assert find(str(same)).label == DIGEST[:8]  # nothing is published to compare it with
    server.mkdir(parents=True)
    (server / f"net-{DIGEST[:8]}.pth").write_bytes(OTHER)  # another file under the published name
    assert find("pretrained", published=published()).label == OTHER_DIGEST[:8]
    other.write_bytes(CONTENT)  # changed since it was read
    assert find(str(other), published=published()).label == ""


def test_authors_without_a_checksum_are_taken_at_their_word_and_other_files_are_not(tmp_path, server) -> None:
    without = Published(url="https://example.org/net.pth")
    assert find("pretrained", published=without).label == ""
    (tmp_path / "net.pth").write_bytes(CONTENT)
    assert find(str(tmp_path / "net.pth"), published=without).label == DIGEST[:8]


def test_the_last_digits_of_torchvisions_names_are_the_checksum() -> None:
    file = torchvision_file("vgg16-397923af.pth")
    assert (file.sha256, file.name) == ("397923af", "vgg16-397923af.pth")
    assert file.url == "https://download.pytorch.org/models/vgg16-397923af.pth"


@pytest.mark.parametrize("source", ["random", None])
def test_random_needs_no_file(source) -> None:
    assert find(source, published=published()) == Weights(source=source, random=True)
    assert find(source).label == "random"


def test_a_missing_file_and_its_remedy(tmp_path) -> None:
    with pytest.raises(MissingWeights, match=r"^w=nowhere: no such file; use w=PATH of a file, or w=null$"):
        find("nowhere", setting="w", otherwise="null")
    with pytest.raises(MissingWeights, match=r"^weights=nowhere: no such file; make it with: imtok train-teacher$"):
        find("nowhere", made_by="imtok train-teacher")
    (tmp_path / "second.pt").write_bytes(CONTENT)
    assert find(str(tmp_path), within=("first.pt", "second.pt")).path == tmp_path / "second.pt"
    with pytest.raises(MissingWeights):
        find(str(tmp_path), within=("first.pt",))


def test_hub_files(tmp_path, monkeypatch) -> None:
    """A stand-in for the hub's client: it has `b.bin` only, in a cache of files named by their sha256."""
    blob = tmp_path / DIGEST
    blob.write_bytes(CONTENT)
    (tmp_path / "b.bin").symlink_to(blob)
    asked = []

    def download(repository, name, etag_timeout):
        asked.append((repository, name))
        if name != "b.bin":
            raise RuntimeError("404")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = find("owner/name", within=("a.bin", "b.bin"), hub_ids=True)
    assert asked == [("owner/name", "a.bin"), ("owner/name", "b.bin")]
    assert found.path == tmp_path / "b.bin" and found.published
    file = Published(hub="owner/name", file="b.bin")
    assert find("pretrained", published=file).published
    blob.write_bytes(OTHER)
    assert find("pretrained", published=file).label == OTHER_DIGEST[:8]
    with pytest.raises(MissingWeights, match=r"^weights=pretrained: a\.bin is not here .*\(RuntimeError\)"):
        find("pretrained", published=Published(hub="owner/name", file="a.bin"))
    with pytest.raises(MissingWeights, match="no such file"):  # a hub id only where one is expected
        find("owner/name", within=("b.bin",))
    for path in ("./name", "/etc/name", "~/name", "a/b/c"):
        with pytest.raises(MissingWeights, match="no such file"):
            find(path, within=("b.bin",), hub_ids=True)


def test_left_out_opens_no_file() -> None:
    net = nn.Linear(2, 2)
    before = net.weight.clone()
    with left_out():
        assert load(net, "nowhere.pt").random and find("pretrained", published=published()).random
    assert torch.equal(net.weight, before)
    with pytest.raises(MissingWeights):
        load(net, "nowhere.pt")


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.ckpt", "net.bin", "net.safetensors"])
def test_read(tmp_path, name) -> None:
    state = {"weight": torch.randn(2, 2), "bias": torch.zeros(2)}
    wrapped = {"model": {"weight": torch.ones(1)}, "ema": {f"module.{k}": v for k, v in state.items()}}
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(wrapped, tmp_path / name)  # the running mean comes first
    given = read(tmp_path / name)
    assert set(given) == set(state) and all(torch.equal(given[k], v) for k, v in state.items())


@pytest.mark.parametrize("key", ["ema", "model", "state_dict"])
def test_read_within_a_checkpoint(tmp_path, key) -> None:
    torch.save({key: {"weight": torch.ones(2)}, "step": 3}, tmp_path / "last.ckpt")
    assert list(read(tmp_path / "last.ckpt")) == ["weight"]


class Malicious:
    def __reduce__(self):
        return (print, ("code ran",))


def test_unreadable_files_are_one_line(tmp_path, capsys) -> None:
    torch.save({"model": Malicious()}, tmp_path / "evil.pt")
    (tmp_path / "text.pt").write_text("hello\n")
    (tmp_path / "text.safetensors").write_text("hello\n")
    torch.save({"step": 3}, tmp_path / "none.pt")
    for name, says in {
        "evil.pt": "holds more than tensors, and running code",
        "text.pt": "cannot be read",
        "text.safetensors": "cannot be read",
        "none.pt": "no state dict in it",
        "missing.pt": "no such file",
    }.items():
        with pytest.raises(UserError, match=rf"^weights=mine:? {says}") as caught:
            read(tmp_path / name, source="weights=mine")
        assert "\n" not in str(caught.value)
    assert "code ran" not in capsys.readouterr().out


def test_misfit_names_the_first_three() -> None:
    own = {name: torch.zeros(2) for name in "abcde"}
    assert misfit(own, own) is None
    given = {"a": torch.zeros(3), "x": torch.zeros(1)}
    assert misfit(own, given) == "4 missing: b, c, d ...; 1 unexpected: x; 1 other shape: a [3] instead of [2]"
    assert misfit(own, {**own, "x": torch.zeros(1)}, exact=False) is None


def test_fill_by_prefix_and_with_fresh_names() -> None:
    net, other = (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2))
    state = {f"visual.{k}": v for k, v in other.state_dict().items()} | {"head": torch.zeros(1)}
    fill(net, state, source="weights=x", prefixes=("trunk.", "visual."))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    before = net[1].weight.clone()
    short = nn.Sequential(nn.Linear(2, 2)).state_dict()
    fill(net, short, source="weights=x", fresh=("1.",))
    assert torch.equal(net[0].weight, short["0.weight"]) and torch.equal(net[1].weight, before)
    line = r"^weights=x holds another architecture than mine; 2 missing: 1\.weight, 1\.bias$"
    with pytest.raises(UserError, match=line):
        fill(net, {**short, "0.weight": torch.ones(2, 2)}, source="weights=x", network="mine")
    with pytest.raises(UserError, match=r"1 unexpected: head"):
        fill(net, other.state_dict() | {"head": torch.zeros(1)}, source="weights=x", exact=True)
    assert torch.equal(net[0].weight, short["0.weight"])  # a file that does not fit changes nothing


def test_load_renames_and_says_where_the_weights_come_from(tmp_path) -> None:
    net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save({k.upper(): v for k, v in other.state_dict().items()}, tmp_path / "net.pt")
    net.origin = load(net, str(tmp_path / "net.pt"), rename=lambda state: {k.lower(): v for k, v in state.items()})
    assert torch.equal(net.weight, other.weight)
    owner = nn.Module()
    owner.inner = Frozen(net)
    assert origins(owner) == [net.origin] and net.origin.path == tmp_path / "net.pt"
