"""Weight files: named by the user, found, checked, read without running code, fitted to a module.

A part takes its weights as `pretrained`, `random` or null, or the path of a file: `self.origin = load(self, weights,
published=...)`. From the attribute `origin` reports take their mark. Errors begin with the name of the part's own
setting; `build` puts the part's place before it.
"""

import hashlib
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from .errors import MissingWeights, UserError
from .frozen import modules_within

State = dict[str, Tensor]

_left_out: ContextVar[bool] = ContextVar("left_out", default=False)
are_left_out = _left_out.get


@dataclass(frozen=True, kw_only=True)
class Published:
    """A file as its authors offer it: at a url (kept in torch.hub's folder), or in a repository of huggingface.co.

    sha256: of the file, or its first digits; empty where the authors give none.
    """

    url: str = ""
    hub: str = ""
    file: str = ""  # in that repository
    sha256: str = ""

    @property
    def name(self) -> str:
        return self.file or self.url.rsplit("/", 1)[-1]


def torchvision_file(name: str) -> Published:
    """NAME-12345678.pth: the digits are the first of its sha256."""
    return Published(url=f"https://download.pytorch.org/models/{name}", sha256=Path(name).stem.rpartition("-")[2])


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where the weights of a network came from. source: as the user named them."""

    source: str | None
    path: Path | None = None
    sha256: str | None = None
    published: bool = False
    random: bool = False

    @property
    def label(self) -> str:
        """The mark of reports: empty for published weights, else `random` or the first digits of the file's sha256."""
        return "random" if self.random else "" if self.published else (self.sha256 or "unknown")[:8]


@contextmanager
def left_out() -> Iterator[None]:
    """Parts that are built within start from random weights and open no file: to count and measure, not to compute."""
    token = _left_out.set(True)
    try:
        yield
    finally:
        _left_out.reset(token)


def origins(module: nn.Module) -> list[Weights]:
    """Of every frozen network within, those held by `Frozen` included."""
    found = (vars(part).get("origin") for part in modules_within(module))
    return [origin for origin in found if isinstance(origin, Weights)]


def find(
    source: str | None,
    *,
    published: Published | None = None,
    setting: str = "weights",
    otherwise: str = "random",
    within: Sequence[str] = (),
    hub_ids: bool = False,
    made_by: str | None = None,
) -> Weights:
    """`pretrained` (the `published` file), `random` or null, or the path of a file.

    setting: the user's name for `source`; otherwise: what it may be where there is no file. Both for error lines.
    within: names under which a folder may hold the file. hub_ids: `source` may be owner/name on huggingface.co.
    made_by: the command that writes the file.
    """
    if source is None or source == "random" or are_left_out():
        return Weights(source=source, random=True)
    known = published.sha256 if published is not None else ""
    path, from_authors = Path(source).expanduser(), False
    if source == "pretrained" and published is not None:
        with fetching(published.name, source=source, setting=setting, otherwise=otherwise):
            path = _torch_hub_file(published.url) if published.url else _hub_file(published.hub, [published.file])
        from_authors, known = True, known or _sha256_of_hub(path)
    elif path.is_dir():
        path = next((path / name for name in within if (path / name).is_file()), path)
    elif hub_ids and not path.exists() and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        with fetching(" or ".join(within), source=source, setting=setting, otherwise=otherwise):
            path = _hub_file(source, within)
        from_authors, known = True, _sha256_of_hub(path)
    if not path.is_file():
        remedy = f"make it with: {made_by}" if made_by else _remedy(setting, otherwise)
        raise MissingWeights(f"{setting}={source}: no such file; {remedy}")
    digest = sha256_of(path)
    is_published = digest.startswith(known) if known else from_authors
    return Weights(source=source, path=path, sha256=digest, published=is_published)


@contextmanager
def fetching(what: str, *, source: str, setting: str = "weights", otherwise: str = "random") -> Iterator[None]:
    """A download within, by whichever library, that fails for whatever reason becomes one line with the remedy."""
    try:
        yield
    except Exception as error:  # the clients of hubs raise a dozen unrelated types
        reason = str(error) if isinstance(error, FileNotFoundError) else type(error).__name__
        raise MissingWeights(
            f"{setting}={source}: {what} is not here and could not be fetched ({reason}); {_remedy(setting, otherwise)}"
        ) from error


def _remedy(setting: str, otherwise: str) -> str:
    return f"use {setting}=PATH of a file, or {setting}={otherwise}"


def _torch_hub_file(url: str) -> Path:
    """TORCH_HOME/hub/checkpoints/NAME; fetched when absent."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        if failure := "HF_HUB_OFFLINE=1" if offline else _download(url, path):
            raise FileNotFoundError(f"not in {path.parent}; {url}: {failure}")
    return path


@cache  # a machine without network is asked once a process, not once a network that wants the file
def _download(url: str, path: Path, timeout: float = 5.0) -> str | None:
    """The reason why it failed, or None. Where the file's name ends in eight digits, its sha256 begins with them."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")  # several processes may fetch it at once
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=timeout) as source:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                while block := source.read(1 << 20):
                    file.write(block)
                    digest.update(block)
        if "-" in path.stem and not digest.hexdigest().startswith(path.stem.rsplit("-", 1)[-1]):
            return "the file that arrived is damaged"
        partial.replace(path)
    except (OSError, HTTPException) as error:  # URLError and time-outs are OSErrors
        return str(getattr(error, "reason", error))
    finally:
        partial.unlink(missing_ok=True)
    return None


def _hub_file(repository: str, names: Sequence[str]) -> Path:
    """The first of these files that the repository has, from the cache or fetched."""
    from huggingface_hub import hf_hub_download

    for name in names[:-1]:
        with suppress(Exception):  # the next name may be there
            return Path(hf_hub_download(repository, name, etag_timeout=5))
    return Path(hf_hub_download(repository, names[-1], etag_timeout=5))


def _sha256_of_hub(path: Path) -> str:
    """The hub's cache names a large file by its sha256."""
    name = path.resolve().name
    return name if len(name) == 64 else ""


def sha256_of(path: Path) -> str:
    facts = path.stat()
    return _sha256(path, facts.st_mtime_ns, facts.st_size)


@cache
def _sha256(path: Path, changed: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: str | Path, *, source: str | None = None) -> State:
    """A flat state dict from .safetensors, .pt, .pth, .ckpt or .bin; pickles are read with weights_only.

    Training checkpoints keep weights under `ema`, `model` or `state_dict`; EMA copies, which papers evaluate, come
    first. source: how the user named the file, for error lines.
    """
    path = Path(path).expanduser()
    source = str(path) if source is None else source
    if not path.is_file():
        raise UserError(f"{source}: no such file; give the checkpoint that the authors published")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(str(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no checkpoint makes the readers raise whatever its bytes lead to
        reason = (str(error) or "cut off").splitlines()[0].split(". ")[0]
        problem = f"cannot be read ({type(error).__name__}: {reason}); damaged or cut off, or no checkpoint"
        remedy = "download or copy it again"
        if isinstance(error, UnpicklingError):
            problem = f"holds more than tensors, and running code from a checkpoint is not allowed ({reason})"
            remedy = "save its state dict alone: torch.save(checkpoint['state_dict'], FILE)"
        raise UserError(f"{source} {problem}; {remedy}") from None
    for key in ("ema", "model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict) and content[key]:
            content = content[key]
            break
    if not (isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise UserError(f"{source}: no state dict in it (looked at the top and under ema, model and state_dict)")
    return {k.removeprefix("module."): v for k, v in content.items()}


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, exact: bool = True) -> str | None:
    """The first few names that are missing, of another shape, or (exact) left over; None where all fit."""
    problems = {
        "missing": [k for k in own if k not in given],
        "unexpected": [k for k in given if exact and k not in own],
        "other shape": [
            f"{k} {list(tensor.shape)} instead of {list(own[k].shape)}"
            for k, tensor in given.items()
            if k in own and own[k].shape != tensor.shape
        ],
    }
    return "; ".join(f"{len(names)} {what}: {first_few(names)}" for what, names in problems.items() if names) or None


def first_few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def check_state(
    own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, source: str, exact: bool = True, network: str = ""
) -> None:
    """One line where tensors do not fit. network: what the file should hold."""
    if said := misfit(own, given, exact=exact):
        raise UserError(f"{source} holds another architecture{f' than {network}' if network else ''}; {said}")


def fill(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    prefixes: Sequence[str] = ("",),
    fresh: tuple[str, ...] = (),
    exact: bool = False,
    network: str = "",
) -> None:
    """Every tensor of the module from `state`, under the first of `prefixes` that has them all.

    fresh: beginnings of names that may be missing. exact: nothing may be left over; else a head or later blocks may.
    """
    own = module.state_dict()
    for prefix in (*prefixes, prefixes[0]):  # the last turn is for its error line
        given = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        wanted = {k: v for k, v in own.items() if k in given or not k.startswith(fresh or "-")}
        if misfit(wanted, given, exact=exact) is None:
            module.load_state_dict({k: given[k] for k in wanted}, strict=False)
            return
    check_state(wanted, given, source=source, exact=exact, network=network)


def load(
    module: nn.Module,
    source: str | None,
    *,
    setting: str = "weights",
    prefixes: Sequence[str] = ("",),
    rename: Callable[[State], Mapping[str, Tensor]] = dict,
    exact: bool = False,
    network: str = "",
    **where: Any,
) -> Weights:
    """`find`, `read` and `fill`; the module stays as it is where `source` names no file.

    rename: of the file's tensors to the module's names. where: of `find`. The rest: as in `fill`.
    """
    found = find(source, setting=setting, **where)
    if found.path is not None:
        named = f"{setting}={source}"
        state = rename(read(found.path, source=named))
        fill(module, state, source=named, prefixes=prefixes, exact=exact, network=network)
    return found
