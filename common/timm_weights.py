"""timm's networks, and parts with timm's names that start from their weights."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .weights import Weights, are_left_out, fetching, fill, find, load, read

FILES = (".safetensors", ".pt", ".pth", ".bin")
PREFIXES = ("visual.trunk.", "encoder.tower.", "encoder.semantic.tower.", "")  # open_clip's, our own exports'


def timm_network(
    model: str,
    source: str | None,
    *,
    setting: str = "weights",
    otherwise: str = "random",
    made_by: str | None = None,
    seed: int | None = 0,
    rename: Callable[..., Mapping[str, Tensor]] = lambda state, model: state,
    **options: Any,
) -> tuple[Any, Weights]:
    """model: timm's name; options: of its constructor. source: `pretrained` (timm's own), PATH, `random` or null.

    setting, otherwise, made_by: as in `find`. seed: of random weights, the same whatever was drawn before; None: drawn
    as every other layer's. rename(state, model): of the tensors of a file to timm's names.
    """
    import timm

    if not timm.is_model(model):
        near = ", ".join(timm.list_models(f"{model.split('_')[0]}*")[:3])
        raise UserError(f"model={model}: timm knows no such model; e.g. {near or 'vit_base_patch16_224'}")
    fetched = source == "pretrained" and not are_left_out()
    drawn = nullcontext() if seed is None else torch.random.fork_rng(devices=[])
    asked = fetching(f"timm's {model}", source=str(source), setting=setting, otherwise=otherwise)
    with drawn, asked if fetched else nullcontext():
        if seed is not None:
            torch.manual_seed(seed)
        network = timm.create_model(model, pretrained=fetched, **options)
    if fetched:
        return network, Weights(source=source, published=True)
    names: dict[str, Any] = {"setting": setting, "otherwise": otherwise, "network": f"timm's {model}"}
    return network, load(network, source, made_by=made_by, rename=partial(rename, model=network), **names)


def start_from(
    parts: nn.Module | Mapping[str, nn.Module],
    pretrained: str | None,
    *,
    fresh: tuple[str, ...] = (),
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
    **options: Any,
) -> None:
    """Fill a module with timm's names, or {prefix of timm's names: module}, from a timm model or a file of its names.

    fresh: beginnings of names that the model lacks. rename: from timm's names to the module's. options: of timm's
    constructor. What the model has besides (a head, later blocks) stays out. Null, or left out: nothing happens.
    """
    if pretrained is None or are_left_out():
        return
    named = f"pretrained={pretrained}"
    if Path(pretrained).suffix in FILES:
        path = find(pretrained, setting="pretrained", otherwise="null").path
        assert path is not None
        state: Mapping[str, Tensor] = read(path, source=named)
        prefix = next(p for p in PREFIXES if any(k.startswith(p) for k in state))
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    else:
        import timm

        if not timm.is_model(pretrained):
            raise UserError(f"{named}: neither a file nor a timm model (vit_so400m_patch14_siglip_384.webli)")
        with fetching(f"timm's {pretrained}", source=pretrained, setting="pretrained", otherwise="null"):
            state = timm.create_model(pretrained, pretrained=True, num_classes=0, **options).state_dict()
    state = rename(state)
    for prefix, part in (parts if isinstance(parts, Mapping) else {"": parts}).items():
        fill(part, state, source=named, prefixes=(prefix,), fresh=fresh)
