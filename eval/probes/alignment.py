"""Text towers and projections of an export, in its `alignment/` folder: what zero-shot and retrieval need.

The towers and projections that semantic and contrastive losses trained are no part of the tokenizer. They lie in
`alignment/` of the exported folder and are read only by `imtok evaluate`. Teachers are named there, not copied.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...common.build import build, locate_trusted_module
from ...common.errors import UserError
from ...losses.base import LossTerm
from ...losses.teacher_term import TeacherTerm
from ...losses.teachers.registry import NamedTeachers
from ...tokenizers.feature_taps import tap

FOLDER, FORMAT = "alignment", "imtok-alignment"
HOME = ("imtok.losses.",)  # where everything that lies beside an export is defined


@dataclass
class Alignment:
    """terms: live loss terms by name. missing: why one that was trained is not here."""

    terms: dict[str, nn.Module] = field(default_factory=dict)
    random: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_losses(cls, losses: Any) -> "Alignment":
        terms: dict[str, nn.Module] = {
            n: t for n, t in losses.terms.items() if t.saved_with_export and getattr(t, "reading", None)
        }
        return cls(terms, [n for n in losses.random_weights if n in terms])


def save_alignment(losses: Any, config: Mapping[str, Any], folder: Path) -> Path | None:
    """After a run, beside model.safetensors in `folder`; nothing where no term has a meaning to keep."""
    return _write(Alignment.of_losses(losses), config, folder)


def export_alignment(checkpoint: Mapping[str, Any], tokenizer: nn.Module, folder: Path) -> Alignment:
    """From a training checkpoint; what could not be rebuilt is in `missing`."""
    config, found = checkpoint["config"], Alignment()
    nodes = {
        n: _without_sources(e["term"], frozen_too=False)
        for n, e in config["loss"].items()
        if e and _is_aligned(e.get("term", {}).get("_target_"))
    }
    _build_terms(found, nodes, NamedTeachers(config.get("teacher"), trusted=HOME), tokenizer, key="loss", term=".term")
    for name, term in found.terms.items():
        own = _of_term(f"terms.{name}", checkpoint["losses"])
        term.load_state_dict(own, strict=False)  # towers that do not train are in no checkpoint but in their own file
        if term.weights_are_random:
            found.random.append(name)
    _write(found, config, folder)
    return found


def import_alignment(
    nodes: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: nn.Module, folder: Path
) -> Alignment:
    """Of weights that others published. nodes: of loss terms by name; state: theirs, by `NAME.` and our names."""
    from ...tokenizers.hub import check_state

    found = Alignment()
    _build_terms(found, nodes, NamedTeachers(), tokenizer, key="alignment")
    for name, term in list(found.terms.items()):
        own = _of_term(name, state)
        try:
            check_state(term.state_dict(), own, source="the file's text tower")
        except UserError as error:
            found.missing[name] = str(error)
            del found.terms[name]
            continue
        term.load_state_dict(own)
    _write(found, {"loss": {name: {"term": node} for name, node in nodes.items()}}, folder)
    return found


def load_alignment(folder: Path, tokenizer: nn.Module) -> Alignment:
    """Of an exported folder; empty where it has none. A teacher whose file is elsewhere is a reason, not an error."""
    from ...tokenizers.hub import check_state, read_weights

    file, weights = folder / FOLDER / "config.json", folder / FOLDER / "model.safetensors"
    if not file.is_file():
        return Alignment()
    try:
        facts = json.loads(file.read_text())
        nodes = {name: _without_sources(node) for name, node in facts["terms"].items()}
        teachers = NamedTeachers(facts["teachers"], key=f"{file}: teachers", trusted=HOME)
        found = Alignment(random=list(facts["random_weights"]))
        _build_terms(found, nodes, teachers, tokenizer, key=f"{file}: terms")
    except UserError:
        raise
    except Exception as error:  # a stranger's values make networks fail in every way there is
        raise UserError(f"{file} is damaged ({type(error).__name__}); export the tokenizer again") from error
    state = read_weights(weights)
    for name, term in found.terms.items():
        own = _of_term(name, state)
        check_state(term.state_dict(), own, source=str(weights))
        term.load_state_dict(own)
    return found


def remove_alignment(folder: Path) -> None:
    """What an earlier export left there: beside other weights it would be another model's."""
    out = folder / FOLDER
    try:
        ours = json.loads((out / "config.json").read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in ("config.json", "model.safetensors") if ours else ():
        (out / name).unlink(missing_ok=True)


def _build_terms(
    found: Alignment,
    nodes: Mapping[str, Any],
    teachers: NamedTeachers,
    tokenizer: nn.Module,
    *,
    key: str,
    term: str = "",
) -> None:
    """Configs that came with weights name classes of imtok only."""
    for name, node in nodes.items():
        here = f"{key}.{name}{term}"
        try:
            made = build(node, key=here, trusted=HOME)
            if not (isinstance(made, LossTerm) and made.saved_with_export):
                raise UserError(f"{here}._target_={node['_target_']}: no term with something to keep beside an export")
            if isinstance(made, TeacherTerm):
                made.learn_from(teachers.get(str(made.teacher), asked_by=f"{here}.teacher"))
        except UserError as error:
            found.missing[name] = str(error)
            continue
        if reason := made.misfit(tokenizer):
            raise UserError(f"{key}.{name}{reason}")
        if getattr(made, "reading", None) is not None:
            tap(tokenizer, made.taps, key=f"{here}.taps")
            found.terms[name] = made.eval().requires_grad_(False)


def _write(alignment: Alignment, config: Mapping[str, Any], folder: Path) -> Path | None:
    from safetensors.torch import save_model

    if not alignment.terms:
        return None
    out = folder / FOLDER
    out.mkdir(parents=True, exist_ok=True)
    facts = {
        "format": FORMAT,
        "terms": {name: _without_sources(config["loss"][name]["term"]) for name in alignment.terms},
        "teachers": {n: dict(node) for n, node in (config.get("teacher") or {}).items() if node is not None},
        "random_weights": alignment.random,
    }
    save_model(nn.ModuleDict(alignment.terms), str(out / "model.safetensors"))
    (out / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    return out


def _of_term(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def _is_aligned(target: str | None) -> bool:
    if not target:
        return False
    found = locate_trusted_module(target, key="loss", within=HOME)
    return issubclass(found, LossTerm) and found.saved_with_export


def _without_sources(node: Any, *, frozen_too: bool = True) -> Any:
    """What is filled from the file beside it starts from nothing else; of a checkpoint, that is what trains."""
    if isinstance(node, Mapping):
        kept = {k: _without_sources(v, frozen_too=frozen_too) for k, v in node.items() if k != "tiny"}
        filled = "weights" in kept and (frozen_too or kept.get("trainable", True))
        return kept | {"weights": "random", "tag": None} if filled else kept
    return node
