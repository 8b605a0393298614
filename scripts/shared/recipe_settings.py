"""Every setting of a recipe as it composes, where it comes from, and whether it equals its reference."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...common.build import locate
from ...training.optim.optimizers import OptimizerSettings

PARTS = {  # what a recipe consists of, apart from the networks, which the comparison of forward passes covers
    "data": ("image_size", "batch_size", "train_crop", "flip"),
    "optimizer": None,
    "trainer": ("max_updates", "clip", "ema", "precision"),
    "loss": None,
    "adversary": None,
    "tokenizer": ("quantizer", "token_dropout", "space"),
    "freeze": None,
}
STATED_WHEN_OFF = {
    "trainer.clip", "trainer.ema", "data.flip", "optimizer.weight_decay", "optimizer.schedule.warmup", "adversary",
    "adversary.adaptive", "adversary.lecam", "adversary.optimizer", "adversary.start",
    "adversary.discriminator_weight", "adversary.own_clock",
}  # fmt: skip
# Of the machine or of a network, and what `debug=tiny` uses.
LEFT_OUT = {"_target_", "tiny", "weights", "trusted", "dim", "pretrained", "store", "name", "in_channels", "optional"}
ZERO_IS_OFF = {"ramp", "discriminator_warmup"}
ONLY_FOR = {"min_ratio": ("cosine", "linear"), "drops": ("step",), "drop_factor": ("step",)}  # by schedule.shape


@dataclass(frozen=True, kw_only=True)
class Setting:
    """status: equal | deviates | unpublished. reason: of a deviation. source: a file of the reference's repository."""

    key: str
    value: str
    source: str = ""
    status: str = "equal"
    reason: str = ""

    @property
    def verdict(self) -> str:
        return f"{self.status}: {self.reason}" if self.reason else self.status


def settings_of(config: Mapping[str, Any]) -> list[Setting]:
    """config: composed; its `recipe` node annotates keys, or what is above them."""
    recipe = config.get("recipe") or {}
    sources = dict(recipe.get("reference") or {})
    sources = {key: source for key, source in sources.items() if source}  # null takes a parent's annotation away
    deviations = {key: reason for key, reason in (recipe.get("deviations") or {}).items() if reason}
    unpublished = list(recipe.get("unpublished") or ())
    values = dict(values_of(config))
    found = []
    for key, value in values.items():
        reasons = [reason for at, reason in deviations.items() if key in concerned(at, values)]
        open_ = any(key in concerned(at, values) for at in unpublished)
        status = "deviates" if reasons else "unpublished" if open_ else "equal"
        above = [at for at in sources if at == key or key.startswith(f"{at}.")]
        source = sources[max(above, key=len)] if above else sources.get("default", "")
        found.append(Setting(key=key, value=value, source=source, status=status, reason="; ".join(reasons)))
    return found


def concerned(annotated: str, keys: Iterable[str]) -> set[str]:
    """An annotation speaks of a key, of all below it, or of a detail that a key's value shows."""
    below = {key for key in keys if key == annotated or key.startswith(f"{annotated}.")}
    return below or {max((key for key in keys if annotated.startswith(f"{key}.")), key=len, default="")}


def misnamed(config: Mapping[str, Any]) -> list[str]:
    """Keys of annotations that the composed config does not have; a text after a comma in braces is such a key, too."""
    recipe = config.get("recipe") or {}
    mappings = [recipe.get(kind) or {} for kind in ("reference", "deviations")]
    named = {key for mapping in mappings for key, said in mapping.items() if said or " " in key}
    named |= set(recipe.get("unpublished") or ())
    return sorted(key for key in named - {"repository", "default"} if not _exists(config, key))


def values_of(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, value in words)."""
    for part, chosen in PARTS.items():
        node = config.get(part)
        names = chosen or (node if isinstance(node, Mapping) else ())
        if part == "loss":
            for name, entry in (node or {}).items():
                if entry is not None:
                    yield f"loss.{name}", f"{words(entry.get('weight', 1.0))} x {words(entry['term'])}"
        elif part == "adversary" and isinstance(node, Mapping):
            yield from _rows(with_defaults(node) | {"reconstruction_terms": _weighed(config)}, part)
        elif names:
            assert isinstance(node, Mapping)
            yield from _rows({name: node.get(name) for name in names}, part)
        else:
            yield from _rows({part: node}, "")


def _rows(node: Mapping[str, Any], at: str) -> Iterator[tuple[str, str]]:
    without = _without_effect(node)
    for name, value in node.items():
        key = f"{at}.{name}".removeprefix(".")
        if name in without or (name in LEFT_OUT and not key.endswith("optimizer.name")):
            continue
        if key == "data.train_crop" and isinstance(value, str):
            value = {"_target_": _crop_class(value)}
        if isinstance(value, Mapping) and key.startswith("tokenizer."):
            if "_target_" in value:
                yield key, class_name(value)
                value = with_defaults(value)
            yield from _rows(value, key)
        elif isinstance(value, Mapping) and key.endswith("optimizer"):
            yield from _rows(value, key)
        elif key.endswith("optimizer.schedule"):
            yield from _rows(_of_its_shape(value or {}), key)
        elif key == "adversary.optimizer":
            yield key, "like the generator's"
        elif key in STATED_WHEN_OFF or not (is_off(value) or (value == 0 and name in ZERO_IS_OFF)):
            yield key, words(value)
    if at.endswith("optimizer"):
        if "eps" not in node and node.get("betas"):
            yield f"{at}.eps", "1e-08"  # torch's
        if "decay" not in node and node.get("weight_decay"):
            yield f"{at}.decay", OptimizerSettings.decay


def _weighed(config: Mapping[str, Any]) -> list[Any]:
    """Of adversary.reconstruction_terms those that the experiment has."""
    terms, losses = with_defaults(config["adversary"])["reconstruction_terms"], config.get("loss") or {}
    return [t for t in terms if any(losses.get(name) for name in (t if isinstance(t, Mapping) else [t]))]


def _without_effect(node: Mapping[str, Any]) -> set[str]:
    """Settings of something that this node leaves off."""
    found = {"decay"} if node.get("weight_decay") == 0 else set()
    revival = {"reset", "usage_decay", "usage_start"}
    return found | (revival if node.get("revive_below") == 0 and node.get("reset", "dead") == "dead" else set())


def _of_its_shape(schedule: Mapping[str, Any]) -> dict[str, Any]:
    shape = schedule.get("shape", "constant")
    kept = {name: value for name, value in schedule.items() if shape in ONLY_FOR.get(name, (shape,))}
    return kept if kept.get("every", 1) != 1 else {name: value for name, value in kept.items() if name != "every"}


def with_defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    """A part's settings in the order of its class, those that the YAML leaves out included."""
    cls: Any = locate(str(node["_target_"]), key="")
    settings = inspect.signature(cls.__init__).parameters
    names = [name for name, setting in settings.items() if name in node or setting.default is not setting.empty]
    return {name: node.get(name, settings[name].default) for name in names if name != "self"}


def is_off(value: Any) -> bool:
    return value is None or value is False or value in ([], {}, (), "none", "auto")


def words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return f"[{', '.join(map(words, value))}]"
    if not isinstance(value, Mapping):
        return str(value)
    if "_target_" in value:
        inside = {k: v for k, v in with_defaults(value).items() if k not in LEFT_OUT | {"size"} and not is_off(v)}
        return class_name(value) + (f"({_listed(inside)})" if inside else "")
    if {"start", "end", "updates"} <= set(value):
        when = f"within {value['updates']} updates" if value["updates"] else "at once"
        return f"{words(value['start'])} to {words(value['end'])} {when} from update {value.get('after', 0)} on"
    return _listed({k: v for k, v in value.items() if k not in LEFT_OUT})


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {words(value)}" for name, value in values.items())


def class_name(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _crop_class(name: str) -> str:
    from ...data.transforms import CROPS

    return f"{CROPS[name].__module__}.{CROPS[name].__qualname__}"


def _exists(config: Mapping[str, Any], key: str) -> bool:
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, Mapping):
            return False
        if name not in node:
            settings = with_defaults(node) if "_target_" in node else {}
            if name not in settings:
                return False
            node = settings[name]
        else:
            node = node[name]
    return True
