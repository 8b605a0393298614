"""From a YAML node to an object: `_target_` names the class, the other keys are its keyword arguments.

Hydra's own `instantiate` would do, but for three things: its errors are three nested tracebacks long; it passes what
the parent knows (`dim`) whether or not the class takes it, without comparing it with the YAML's; and it runs any
callable, which a downloaded config must never do.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

from .errors import UserError, did_you_mean
from .loaded_config import restricted
from .moved import current
from .value_types import annotations_of, what_it_takes

PARTS = ("imtok.tokenizers.", "imtok.decoders.")  # where everything in an export is defined
HELPER_KEYS = ("tiny",)  # read by debug=tiny, never an argument
T = TypeVar("T")


def locate(target: str, *, key: str) -> type:
    """Import the class `package.module.Class`."""
    module_name, _, name = current(str(target)).rpartition(".")
    try:
        _find_here(module_name.partition(".")[0])
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:  # ValueError: an empty name
        missing = getattr(error, "name", None)
        if missing and missing.split(".")[0] != module_name.split(".")[0]:
            raise UserError(f"{key}._target_={target} needs the package {missing!r}: pip install {missing}") from error
        raise UserError(f"{key}._target_={target}: no module {module_name!r}") from error
    found = getattr(module, name, None)
    if not inspect.isclass(found):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
        raise UserError(f"{key}._target_={target}: no class {name!r} there; {did_you_mean(name, classes)}")
    return found


def _find_here(package: str) -> None:
    """A package in the folder that imtok was started in; an installed command does not look there, as `python` does."""
    here = Path.cwd()
    if importlib.util.find_spec(package) is None and any((here / n).exists() for n in (package, f"{package}.py")):
        sys.path.append(str(here))


def trusted_parts(packages: str | Sequence[str]) -> bool | Sequence[str]:
    """`trusted` for `build` of a loaded tokenizer whose user trusts these packages: "mypkg,other" or a list."""
    names = packages.strip("[]").replace(",", " ").split() if isinstance(packages, str) else packages
    for name in names:
        if not all(part.isidentifier() for part in str(name).split(".")):
            raise UserError(f"trusted={name}: the name of a package, such as mypkg")
    return (*PARTS, *(f"{name}." for name in names)) if names else False


def locate_trusted_module(target: str, *, key: str, within: Sequence[str] = PARTS) -> type:
    """Like `locate`, for configs that came with a checkpoint: only nn.Modules that a tokenizer is made of."""
    from torch import nn

    if not current(str(target)).startswith(tuple(within)):
        package = str(target).partition(".")[0]
        own = package.isidentifier() and package not in {"imtok", *sys.stdlib_module_names}
        remedy = f"; trusted=[{package}] or --trust {package} runs that package's code, if you know it" if own else ""
        raise UserError(
            f"{key}._target_={_shown(target)}: a loaded tokenizer may only name classes of {', '.join(within)}{remedy}"
        )
    found = locate(target, key=key)
    # The class's own home counts, not the path written down: imtok.hub.os.system resolves as well.
    if not (issubclass(found, nn.Module) and f"{found.__module__}.".startswith(tuple(within))):
        raise UserError(f"{key}._target_={target}: not a module class of a tokenizer's parts, so it is not loaded")
    return found


def build(node: Mapping[str, Any], *, key: str, trusted: bool | Sequence[str] = True, **given: Any) -> Any:
    """Make what `node` describes; nested nodes first.

    key: where the node stands in the YAML, for error lines.
    given: arguments the caller knows (`dim=...`); the YAML may state them too and is then checked.
    trusted: False for configs that came with a checkpoint; or where their classes may be defined, if not in PARTS.
        Then every failure is one UserError, and no argument names weights or files (loaded_config.py).
    A class with `builds_own_parts = True` receives its nested nodes unbuilt, one with `keeps_nodes` those it names.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{key}: no _target_ here, so nothing says which class to build")
    for forbidden in ("_args_", "_partial_"):
        if forbidden in node:
            raise UserError(f"{key}.{forbidden}: only keyword arguments are allowed here")
    if trusted is True:
        return _make(locate(node["_target_"], key=key), node, key=key, given=given, trusted=True)
    try:
        cls = locate_trusted_module(node["_target_"], key=key, within=trusted or PARTS)
        return _make(cls, node, key=key, given=given, trusted=trusted)
    except Exception as error:  # hostile values make networks fail in every way there is
        if type(error).__module__.startswith("imtok."):
            raise
        said = str(error).partition("\n")[0]
        raise UserError(f"{key}: this loaded config cannot be built ({type(error).__name__}: {said[:200]})") from error


def build_as(cls: type[T], node: Mapping[str, Any] | None, *, key: str, **given: Any) -> T:
    """Like `build`, for a node without `_target_` whose class is always the same."""
    if not isinstance(node or {}, Mapping):
        raise UserError(f"{key}={node}: takes settings by name")
    return _make(cls, node or {}, key=key, given=given)


def _make(cls: Any, node: Mapping[str, Any], *, key: str, given: Mapping[str, Any], trusted: Any = True) -> Any:
    accepted = inspect.signature(cls.__init__).parameters
    # Next to a part that `aliases_of` names stand its settings once more, to feed interpolations: data.root.
    part = node.get(getattr(cls, "aliases_of", ""))
    helpers = {*HELPER_KEYS, *(part if isinstance(part, Mapping) else ())} - set(accepted)
    own = {k: v for k, v in node.items() if not str(k).startswith("_") and k not in helpers}

    for name, value in given.items():
        if name in own and own[name] is not None and own[name] != value:
            raise UserError(
                f"{key}.{name}={own[name]}, but the parts around it need {value}; set it to {value} or leave it out"
            )
    arguments = own | {k: v for k, v in given.items() if k in accepted}
    for name in arguments:
        if name not in accepted:
            known = [n for n in accepted if n != "self"]
            raise UserError(
                f"{key}.{name}={own.get(name)}: {cls.__name__} has no such setting; {did_you_mean(name, known)}"
            )
    required = [
        n for n, p in accepted.items() if p.default is p.empty and p.kind is p.KEYWORD_ONLY and n not in arguments
    ]
    if required:
        raise UserError(f"{key}.{required[0]}: {cls.__name__} needs it, and nothing sets it")
    hints = annotations_of(cls.__init__)
    for name, value in arguments.items():
        wanted = None if isinstance(value, Mapping) and "_target_" in value else what_it_takes(hints.get(name), value)
        if wanted:
            raise UserError(f"{key}.{name}={_shown(value)}: {cls.__name__} takes {wanted} here")
    if trusted is not True:
        arguments = restricted(cls, arguments, key=key)
    if not getattr(cls, "builds_own_parts", False):
        kept = getattr(cls, "keeps_nodes", ())
        arguments |= {
            k: _build_nested(v, key=f"{key}.{k}", trusted=trusted) for k, v in arguments.items() if k not in kept
        }
    elif "trusted" in accepted:
        arguments["trusted"] = trusted
    elif trusted is not True:  # it would build its parts as if they were ours
        raise UserError(f"{key}._target_={cls.__name__}: not a part that a loaded config may name")
    opened: AbstractContextManager[None] = nullcontext()
    if trusted is False:  # a stranger's config opens no file and fetches none: what it needs lies next to it
        from .weights import left_out

        opened = left_out()
    try:
        with opened:
            return cls(**arguments)
    except ValueError as error:
        named = re.split(r"[=.:]", str(error), maxsplit=1)[0] in accepted  # "channels=30: ..." is a key of this node
        if isinstance(error, UserError) and not named:
            raise  # it names its place itself
        kind = type(error) if isinstance(error, UserError) else UserError
        raise kind(f"{key}.{error}" if named else f"{key}: {error}") from error
    except (TypeError, RuntimeError, OverflowError, MemoryError, RecursionError) as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{key}: {cls.__name__} cannot be made of these settings: {said[:200]} (IMTOK_DEBUG=1 shows where)"
        ) from error


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _build_nested(value: Any, *, key: str, trusted: bool | Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, key=key, trusted=trusted)
        return {k: _build_nested(v, key=f"{key}.{k}", trusted=trusted) for k, v in value.items()}
    return value
