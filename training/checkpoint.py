"""Everything needed to go on exactly: gathered at an update boundary, written whole or not at all, read strictly.

Frozen networks of loss terms and discriminators (LPIPS, teachers) are in no state dict (common/frozen.py).
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from .. import __version__
from ..common.console import say
from ..common.distributed import gather_objects, is_sharded, rank
from ..common.errors import UserError
from ..common.files import write_atomically
from ..common.weights import misfit
from .checkpoint_paths import WHOLE_PART
from .module import TokenizerTraining
from .randomness import rng_state

FORMAT = "imtok-checkpoint"
FORMAT_VERSION = 1


def trained_state(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """state_dict without parts that are frozen as a whole: a text tower, which an export keeps and a run need not."""
    own: list[tuple[str, Tensor]] = [(n, p) for n, p in module.named_parameters(recurse=False) if p.requires_grad]
    own += [(n, b) for n, b in module.named_buffers(recurse=False) if n not in module._non_persistent_buffers_set]
    state = {prefix + n: t.detach() for n, t in own}
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if not parameters or any(p.requires_grad for p in parameters):
            state |= trained_state(child, f"{prefix}{name}.")
    return state


def gather(training: TokenizerTraining, config: Mapping[str, Any]) -> dict[str, Any]:
    """All ranks call this; plain containers and tensors only."""
    training.leave_validation()  # an error in it may be why this is called
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {"imtok": __version__, "torch": str(torch.__version__)},
        "config": dict(config),
        "update": training.update,
        "samples": training.samples,
        "images_per_update": (config.get("data") or {}).get("batch_size"),
        "skipped_updates": training.guard.skipped,
        "tokenizer": dict(training.tokenizer.state_dict()),
        "losses": trained_state(training.losses),
        "adversary": trained_state(training.adversary) if training.adversary is not None else None,
        "steppers": {name: stepper.state_dict() for name, stepper in training.steppers.items()},
        "ema": training.ema.state_dict() if training.ema is not None else None,
        "callbacks": callback_states(training.callbacks),
        "rng": gather_objects(rng_state()),
    }


def callback_states(callbacks: Sequence[Callback]) -> dict[str, dict[str, Any]]:
    """What callbacks want back at a resume; one that `read` would refuse is left out, with a line."""
    states = {}
    for callback in callbacks:
        if not (state := callback.state_dict()):
            continue
        if _is_plain(state):
            states[callback.state_key] = state
        else:
            what = f"the state of {callback.state_key}"
            say(f"{what} is not in the checkpoint: tensors, numbers and text only", error=True)
    return states


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return type(value) in (dict, OrderedDict) and all(_is_plain(v) for pair in value.items() for v in pair)
    if type(value) in (list, tuple, set):
        return all(_is_plain(v) for v in value)
    return value is None or type(value) in (bool, int, float, str, bytes, Tensor)


def write(path: Path, state: Mapping[str, Any]) -> None:
    write_atomically(path, lambda file: _save(dict(state), file))


class _Watched:
    """A file that remembers why it could not be written: torch's writer raises all sorts when the disk fills up."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Done by write_atomically."""


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    watched = _Watched(file)
    try:
        torch.save(state, watched)  # type: ignore[arg-type]
    except Exception as error:
        if watched.error is not None:
            raise watched.error from error
        raise


def read(path: Path, *, named: str = "ckpt_path=", shapes_only: bool = False) -> dict[str, Any]:
    """named: how the user gave the file, put before it in error lines.

    shapes_only: tensors that were sharded come without data, which `restore` reads as far as it is needed.
    """
    given = f"{named}{path}"
    try:
        state = _read_folder(path, shapes_only) if path.is_dir() else _read_file(path)
    except FileNotFoundError:
        raise UserError(f"{given}: no such file; ckpt_path=last takes the newest run of the experiment") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises whatever its unpickler stumbles over, with a page of advice
        raise UserError(
            f"{given}: cannot be read; it is cut off, or no checkpoint of imtok (those are RUN/checkpoints/*.ckpt)"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"{given}: not a training checkpoint of imtok; init_from=DIR starts from an exported tokenizer, "
            "imtok import-weights reads the checkpoints of other projects"
        )
    if state["format_version"] > FORMAT_VERSION:
        raise UserError(
            f"{given}: written by imtok {state['versions']['imtok']}, newer than this one; pip install -U imtok"
        )
    return state


def _read_file(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_folder(path: Path, shapes_only: bool) -> dict[str, Any]:
    from .sharded_checkpoint import with_shapes, with_values

    state = with_shapes(_read_file(path / WHOLE_PART), path)
    return state if shapes_only else with_values(state, path, {})


class Saved(NamedTuple):
    """A checkpoint that was read, and from where."""

    source: Path
    state: Mapping[str, Any]


def check_fits(training: TokenizerTraining, saved: Saved, *, config: Mapping[str, Any]) -> None:
    """Another architecture is refused by the names that differ; changes nothing."""
    state = saved.state
    check_batch(saved, config=config)
    parts = {"tokenizer": dict(training.tokenizer.state_dict()), "losses": trained_state(training.losses)}
    parts["adversary"] = trained_state(training.adversary) if training.adversary is not None else {}
    here = {f"{name}.{k}": v for name, own in parts.items() for k, v in own.items()}
    there = {f"{name}.{k}": v for name in parts for k, v in (state[name] or {}).items()}
    if problems := misfit(here, there):
        keys = differing_keys(state["config"], config)
        why = f"; the YAML differs: {', '.join(keys[:4])}" if keys else ""
        raise UserError(f"ckpt_path={saved.source}: the checkpoint is of another model: {problems}{why}")


def check_batch(saved: Saved, *, config: Mapping[str, Any]) -> None:
    """`data.batch_size` was of one process and micro-batch before checkpoints said how many images an update has."""
    state, there = saved.state, saved.state["config"].get("data") or {}
    if "images_per_update" in state or (before := there.get("batch_size")) is None:
        return
    accumulate = (state["config"].get("trainer") or {}).get("accumulate") or 1
    together = before * accumulate * len(state["rng"])
    if together != before and (config.get("data") or {}).get("batch_size") == before:
        raise UserError(
            f"data.batch_size={before}: this run's updates had {together} images, {before} for each of "
            f"{len(state['rng'])} processes and {accumulate} micro-batches; give data.batch_size={together}, which "
            "now counts them all"
        )


def restore(training: TokenizerTraining, *, saved: Saved, config: Mapping[str, Any]) -> None:
    """Fill in everything; another architecture is refused before anything has changed."""
    check_fits(training, saved, config=config)
    state = _as_held(training, saved)
    for name in ("tokenizer", "losses", "adversary"):
        if (module := getattr(training, name)) is not None:
            module.load_state_dict(state[name], strict=False)  # strictness was settled above
    for name, stepper in training.steppers.items():
        try:
            stepper.load_state_dict(state["steppers"][name])
        except (ValueError, KeyError) as error:
            raise UserError(
                f"ckpt_path={saved.source}: the {name}'s optimizer does not fit ({error}); did freeze or "
                "optimizer.weight_decay change? init_from=DIR/tokenizer starts with a fresh optimizer"
            ) from error
    if training.ema is not None and state["ema"] is not None:
        training.ema.load_state_dict(state["ema"])
    elif training.ema is not None:  # turned on now: the mean starts here, not where the fresh tokenizer stood
        training.ema.start_from(training.tokenizer)
    for callback in training.callbacks:
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    training.update, training.samples = state["update"], state["samples"]
    training.guard.skipped = state["skipped_updates"]
    # With more processes than before there is no state for the last ones: they keep the one they were seeded with.
    training.rng_to_restore = state["rng"][rank()] if rank() < len(state["rng"]) else None


def _as_held(training: TokenizerTraining, saved: Saved) -> Mapping[str, Any]:
    """The state in tensors like the training's own: whole ones, or this process's shards."""
    own = sharded_tensors(training)
    if not own and not saved.source.is_dir():
        return saved.state
    from .sharded_checkpoint import sharded_as, with_values

    state = saved.state
    if saved.source.is_dir():
        try:
            state = with_values(state, saved.source, own)
        except Exception as error:
            raise UserError(f"ckpt_path={saved.source}: a file in it is cut off or missing") from error
    return sharded_as(state, own)


def sharded_tensors(training: TokenizerTraining) -> dict[str, Tensor]:
    """By their place in the state, parameters also by that of their optimizer's state."""
    own: dict[str, Tensor] = {}
    for part in ("tokenizer", "losses", "adversary"):
        if (module := getattr(training, part)) is not None:
            own |= {f"{part}/{name}": tensor for name, tensor in module.named_parameters()}
    if training.ema is not None:
        own |= {f"ema/parameters/{name}": tensor for name, tensor in training.ema.parameters.items()}
    for name, stepper in training.steppers.items():
        place = f"steppers/{name}/optimizer/state"
        own |= {f"{place}/{number}": parameter for number, parameter in enumerate(stepper.in_module_order)}
    return {name: tensor for name, tensor in own.items() if is_sharded(tensor)}


def differing_keys(saved: Any, now: Any, key: str = "") -> list[str]:
    """`tokenizer.quantizer.codebook_size=1024 there, 512 here`, of the nodes that make a model."""
    if not key:
        nodes = ("tokenizer", "loss", "adversary")
        return [d for n in nodes for d in differing_keys(saved.get(n), now.get(n), n)]
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        names = [*saved, *(k for k in now if k not in saved)]
        return [d for n in names if n != "tiny" for d in differing_keys(saved.get(n), now.get(n), f"{key}.{n}")]
    if saved == now:
        return []
    there, here = ("a node" if isinstance(v, Mapping) else v for v in (saved, now))
    return [f"{key}={there} there, {here} here"]
