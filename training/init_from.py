"""Start from exported tokenizers, the whole one or named parts of several; keep named parts as they are."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..common.console import say
from ..common.errors import UserError, did_you_mean
from ..common.weights import fill, first_few
from ..decoders.base import Decoder
from ..tokenizers.tokenizer import Tokenizer


def init_from(tokenizer: Tokenizer, source: str | Mapping[str, Any]) -> None:
    """source: a folder or hub id (everything must fit), or {part: folder}; parts that are not named stay fresh."""
    from ..tokenizers.hub import WEIGHTS_FILE, find_folder, load_weights, read_config, read_weights

    def folder_of(name: str, key: str) -> Any:
        try:
            folder = find_folder(name)
            read_config(folder)
        except UserError as error:
            raise UserError(str(error).replace("model=", f"{key}=")) from error
        return folder

    if isinstance(source, str):
        load_weights(tokenizer, folder_of(source, "init_from") / WEIGHTS_FILE)
        _no_longer_from_nothing(tokenizer)
        say(f"init_from={source}: all {len(tokenizer.state_dict())} tensors loaded, none fresh")
        return
    loaded: set[str] = set()
    for part, name in source.items():
        key = f"init_from.{part}"
        if not isinstance(name, str):
            raise UserError(f"{key}={name}: a folder or hub id")
        children = [n for n, _ in tokenizer.named_children()]
        if part.split(".")[0] not in children:
            raise UserError(f"{key}={name}: the tokenizer has no part {part!r}; {did_you_mean(part, children)}")
        state = read_weights(folder_of(name, key) / WEIGHTS_FILE)
        module = tokenizer.get_submodule(part)
        given = {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
        if isinstance(module, Decoder):  # it may know how to take the weights of a smaller one (WeTok's second stage)
            given = module.adapted(given)
        fill(module, given, source=f"{key}={name}", exact=True)
        loaded |= {f"{part}.{k}" for k in given}
        _no_longer_from_nothing(module)
    fresh = sorted(set(tokenizer.state_dict()) - loaded)
    names = f": {first_few(fresh)}" if fresh else ""
    say(f"init_from: {len(loaded)} tensors loaded ({', '.join(source)}), {len(fresh)} fresh{names}")


def _no_longer_from_nothing(part: nn.Module) -> None:
    """Frozen towers below `part` are not random any more, though their own YAML names no file."""
    for module in part.modules():
        if hasattr(module, "frozen_from_nothing"):
            module.frozen_from_nothing = False  # type: ignore[assignment]


def freeze_parts(tokenizer: Tokenizer, parts: Iterable[str]) -> None:
    """Their parameters get no gradient and no optimizer state; the training keeps them in eval mode."""
    parts = list(parts)
    if "quantizer" in parts and "encoder" not in parts:
        raise UserError(
            f"freeze={parts}: a frozen quantizer hands no gradient on, so the encoder would stand still; "
            "freeze=[encoder,quantizer]"
        )
    for part in parts:
        part_named(tokenizer, part).requires_grad_(False)
    tokenizer.frozen = tuple(parts)


def part_named(tokenizer: nn.Module, path: str, *, key: str = "freeze") -> nn.Module | nn.Parameter:
    """`encoder`, a module within it (`encoder.tower.blocks.0`), or one parameter (`encoder.tower.pos_embed`)."""
    found: nn.Module | nn.Parameter = tokenizer
    walked = ""
    for name in path.split("."):
        assert isinstance(found, nn.Module)
        inside: dict[str, Any] = dict(found.named_children()) | dict(found.named_parameters(recurse=False))
        if name not in inside:
            known = [f"{walked}{child}" for child in inside]
            where = f"{walked.removesuffix('.')} has" if walked else "the tokenizer has"
            raise UserError(f"{key}: {where} no part {path!r}; {did_you_mean(f'{walked}{name}', known)}")
        found, walked = inside[name], f"{walked}{name}."
        if isinstance(found, nn.Parameter) and walked != f"{path}.":
            raise UserError(f"{key}: {path!r} goes on behind a parameter; give {walked.removesuffix('.')!r}")
    return found
