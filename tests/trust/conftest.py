"""What a stranger's config must not reach: a file that nobody else names, an address, a program."""

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

_watched: list[list[str]] = []


def _hook(event: str, arguments: tuple) -> None:
    if not _watched:
        return
    if event == "open" and "canary" in str(arguments[0]):
        _watched[-1].append(f"open {arguments[0]}")
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.posix_spawn"):
        _watched[-1].append(f"{event} {arguments[:2]}")


sys.addaudithook(_hook)  # Python has no way to take one away again


class Canary:
    """file: a state dict. url: of a server here, which notes who asks. reached: all that happened, in words."""

    def __init__(self, folder: Path, port: int, reached: list[str]) -> None:
        self.folder, self.reached = folder, reached
        self.file, self.url = folder / "canary.pth", f"http://127.0.0.1:{port}/canary.pth"
        self.program_ran = folder / "program_ran"
        torch.save({"w": torch.zeros(1)}, self.file)

    @property
    def sources(self) -> list[str]:
        """All the ways in which parts and libraries name weights."""
        ours = [str(self.file), str(self.folder), self.url, f"file://{self.file}", "canary/weights"]
        return [*ours, "hf-hub:canary/weights", f"local-dir:{self.folder}"]


@pytest.fixture
def canary(tmp_path, monkeypatch) -> Iterator[Canary]:
    reached: list[str] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reached.append(f"GET {self.path}")
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    folder = tmp_path / "canary"
    folder.mkdir()
    made = Canary(folder, server.server_port, reached)
    # safetensors opens files from Rust, where Python's audit does not look.
    real = safetensors.torch.load_file
    monkeypatch.setattr("safetensors.torch.load_file", lambda file, **k: _hook("open", (file,)) or real(file, **k))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    _watched.append(reached)
    try:
        yield made
    finally:
        _watched.pop()
        server.shutdown()
        server.server_close()
