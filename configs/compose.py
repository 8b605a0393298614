"""From YAML files and overrides to one plain dict, with errors of one line. Imports neither torch nor lightning."""

import inspect
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..common.build import locate
from ..common.console import launched_processes
from ..common.errors import UserError, did_you_mean, one_line
from ..common.value_types import check_values
from .swaps import leave_out_replaced

CONFIGS = "imtok.configs"
folders_of_yaml: list[Path] = []  # of the user, in the last composition: --config-dir, hydra.searchpath
# The settings at the top of train.yaml and evaluate.yaml; those of a node are checked by the class it builds.
TOP_LEVEL = {
    "name": str,
    "seed": int,
    "weights": Literal["pretrained", "random"],
    "init_from": str | Mapping[str, Any] | None,
    "freeze": Sequence[str],
    "ckpt_path": str | None,
    "evaluate_after": bool,
    "model": str | None,
    "split": Literal["auto", "val", "all"],
    "max_images": int | None,
    "out": str | None,
    "overwrite": bool,
    "device": str,
    "require": Sequence[str],
    "trusted": str | Sequence[str],
    "curve_images": int | None,
}


def compose_config(config_name: str = "train", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What `imtok train OVERRIDES` would run with, resolved, as a dict; UserErrors name the key."""
    overrides = with_home(overrides)
    with readable_errors(config_name, overrides), _composed(config_name, overrides) as cfg:
        return settle(cfg, overrides, config_name)


def settle(cfg: DictConfig, overrides: Sequence[str], config_name: str = "train") -> dict[str, Any]:
    """Leave out settings of replaced parts, apply debug=tiny, resolve, and refuse what is still missing.

    Call inside `readable_errors`, while Hydra is initialized.
    """
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else ()
    folders_of_yaml[:] = [Path(source.path) for source in sources if source.schema == "file"]
    with open_dict(cfg):
        cfg.pop("hydra", None)
    leave_out_replaced(cfg, config_name, overrides)
    if OmegaConf.select(cfg, "debug.sets"):
        apply_tiny(cfg, overrides)
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key}: needs a value, and nothing sets it: add {key}=...")
    config = _plain(cfg, resolve=True)
    check_top_level(config)
    return config


def command_line(argv: Sequence[str], *, command: str, flags: Collection[str] = ()) -> list[str]:
    """The words of a command that has a config, as Hydra takes them: key=value.

    `--config-dir DIR` (YAML files of one's own, laid out as in configs/) becomes Hydra's search path.
    flags: others that the command knows; they are passed on.
    """
    words: list[str] = []
    folders: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        name, is_set, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            given = value if is_set else rest.pop(0) if rest else ""
            folder = Path(given).expanduser().absolute()
            if not given or not folder.is_dir():
                raise UserError(f"--config-dir={given}: no such folder; it holds experiment/NAME.yaml and the like")
            folders.append(quoted(f"file://{folder}"))
        elif word.startswith("-") and name not in flags:
            raise UserError(
                f"{name}: settings are key=value, such as data.root=DIR (`imtok {command} --help` lists the usual ones)"
            )
        elif is_set or word.startswith(("-", "~")) or (words and words[-1] in flags):
            words.append(word)
        else:
            raise UserError(f"{word!r}: `imtok {command}` takes key=value, such as experiment=quickstart")
    return with_home([*words, *([f"hydra.searchpath=[{','.join(folders)}]"] if folders else [])])


def quoted(text: object) -> str:
    """For Hydra's grammar."""
    escaped = str(text).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def check_top_level(config: Mapping[str, Any]) -> None:
    check_values(config, TOP_LEVEL, key="")
    if config["seed"] < 0:
        raise UserError(f"seed={config['seed']}: 0 or more")
    if config.get("max_images") is not None and config["max_images"] < 1:
        raise UserError(f"max_images={config['max_images']}: 1 or more, null for all")
    if config.get("curve_images") is not None and config["curve_images"] < 0:
        raise UserError(f"curve_images={config['curve_images']}: 0 or more, null for all")


def apply_tiny(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """First what configs/debug/tiny.yaml sets, then each node's own `tiny:`; never a key of the command line."""
    by_hand = override_keys(overrides)

    def put(key: str, value: Any) -> None:
        if not any(key == k or k.startswith(f"{key}.") for k in by_hand):
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)

    for key, value in _plain(cfg.debug.sets).items():
        parent = key.rpartition(".")[0]
        if OmegaConf.select(cfg, parent) is not None if parent else key in cfg:
            put(key, value)
    for parent, values in list(_tiny_nodes(_plain(cfg))):
        for name, value in values.items():
            put(f"{parent}.{name}" if parent else name, value)


def _plain(cfg: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(cfg, resolve=resolve)
    return values


def _tiny_nodes(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if isinstance(node.get("tiny"), dict):
            yield key, node["tiny"]
        for name, child in node.items():
            if name != "tiny":
                yield from _tiny_nodes(child, f"{key}.{name}" if key else str(name))


def with_home(overrides: Iterable[str]) -> list[str]:
    """`data.root=~/photos`: the shell expands no ~ behind a =, and Hydra's grammar knows none."""
    words = []
    for word in overrides:
        key, is_set, value = word.partition("=")
        if is_set and re.match(r"~\w*(/|$)", value):
            path = os.path.expanduser(value).replace("\\", r"\\").replace('"', r"\"")
            word = f'{key}="{path}"'
        words.append(word)
    return words


def override_keys(overrides: Iterable[str]) -> list[str]:
    """The dotted keys that overrides set; `tokenizer/encoder=vit` is the key `tokenizer/encoder`."""
    return [text.partition("=")[0].lstrip("+~").partition("@")[0] for text in overrides if not text.startswith("-")]


# -- what YAML files compute ------------------------------------------------------------------------------------------


def register_resolvers() -> None:
    OmegaConf.register_new_resolver("imtok_run_stamp", run_stamp, replace=True)
    OmegaConf.register_new_resolver("imtok_lr", learning_rate_for, replace=True)


def learning_rate_for(lr: float, images: int, batch_size: int) -> float:
    """`${imtok_lr:LR,IMAGES,${data.batch_size}}`: LR an update of so many images, and in proportion for another batch.

    For recipes whose reference has this rule; `optimizer.lr=1e-4` by hand stays what it says.
    """
    try:
        return float(f"{float(lr) * int(batch_size) / int(images):.6g}")
    except (TypeError, ValueError, ZeroDivisionError):
        raise UserError(f"data.batch_size={batch_size}: a whole number, which the learning rate follows") from None


@cache
def run_stamp() -> str:
    """Date and time, the same on all processes of a run."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    if launched_processes() <= 1 and int(os.environ.get("SLURM_NTASKS", "1")) <= 1:
        return now
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise UserError(
            "hydra.run.dir: under this launcher each process would make a folder of its own; add hydra.run.dir=DIR"
        )
    # torchrun's agent keeps a store for its workers: rank 0 writes the stamp there, the others wait for it.
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"imtok/run_stamp/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    if os.environ["RANK"] == "0":
        store.set(key, now)
    return store.get(key).decode()


# -- Hydra, without its own way to fail -------------------------------------------------------------------------------


@contextmanager
def _composed(config_name: str, overrides: list[str]) -> Iterator[DictConfig]:
    """`${hydra:...}` resolves inside as it would in a run."""
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton

    register_resolvers()
    before = Singleton.get_state()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module(CONFIGS, version_base="1.3"):
            cfg = compose(config_name, overrides=overrides, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            yield cfg
    finally:
        Singleton.set_state(before)


@contextmanager
def readable_errors(config_name: str, overrides: Sequence[str]) -> Iterator[None]:
    """Hydra's and OmegaConf's errors become a UserError that names the key and what would work."""
    from hydra.errors import HydraException

    try:
        yield
    except UserError:
        raise
    except (HydraException, OmegaConfBaseException) as error:
        raise _explained(error, config_name, list(overrides)) from error


def _explained(error: Exception, config_name: str, overrides: list[str]) -> UserError:
    from hydra.errors import MissingConfigException, OverrideParseException

    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        file = str(error.missing_cfg_file)
        pairs = [word.lstrip("+").partition("=") for word in overrides]
        group, given = next(((k, v) for k, _, v in pairs if f"{k}/{v}" == file), file.rsplit("/", 1))
        if Path(given).is_absolute() or given.endswith((".yaml", ".yml")):
            path = Path(given)
            folder = path.parents[1] if path.parent.name == group and path.is_absolute() else "DIR"
            place = "" if folder != "DIR" else f", where the file is DIR/{group}/{path.stem}.yaml"
            return UserError(
                f"{group}={given}: a name is wanted here; for a file of yours give --config-dir {folder} "
                f"{group}={path.stem}{place}"
            )
        return UserError(f"{group}={given}: no such file; {did_you_mean(given, error.options or _options(group))}")
    if found := re.search(r"Could not (?:override|delete from config\.?) '([^']+)'", text):
        given = found[1].rstrip(".")
        # Replaced by hand, but the experiment chooses parts of the part before.
        for word in (o for o in overrides if not o.startswith("-")):
            if given.partition("@")[2].startswith(f"{override_keys([word])[0].replace('/', '.')}."):
                return UserError(f"{word}: the experiment chooses parts inside this part; take another experiment")
        if "/" in given or "No match in the defaults list" in text:
            return UserError(f"{given}: no such config group; {did_you_mean(given, _group_names(config_name))}")
        value = next((o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith(f"{given}=")), None)
        shown = given if value is None else f"{given}={value}"
        return UserError(f"{shown}: no such key; {_nearest_key(given, config_name, overrides)}")
    if isinstance(error, OverrideParseException):
        return UserError(
            f"{error.override}: not readable as key=value; values with spaces, commas, braces or = need quotes that "
            "reach imtok, e.g. 'data.root=\"my photos\"'"
        )
    key = getattr(error, "full_key", None)
    line = one_line(error).split(" full_key:")[0]
    return UserError(f"{key}: {line}" if key and str(key) not in line else line)


def _nearest_key(given: str, config_name: str, overrides: list[str]) -> str:
    """Walk down as far as the key exists, then name the neighbours."""
    groups_only = [
        o for o in overrides if "." not in o.partition("=")[0] and o.partition("=")[0] in _group_names(config_name)
    ]
    for attempt in (groups_only, []):
        try:
            with _composed(config_name, attempt) as cfg:
                node: Any = _plain(cfg)
        except Exception:
            continue
        path: list[str] = []
        for name in given.split("."):
            if not isinstance(node, dict):
                return f"{'.'.join(path)} is a value, not a group of settings"
            if name not in node:
                if len(path) == 1 and name in _options(path[0]):
                    return f"+{path[0]}={name} adds it"
                if "_target_" in node and name in inspect.signature(locate(node["_target_"], key="")).parameters:
                    return f"+{given}=... sets it; an argument of {node['_target_']} that its YAML does not list"
                known = {".".join([*path, str(k)]) for k in node if k not in ("tiny", "hydra", "_target_")}
                return did_you_mean(".".join([*path, name]), known) + " (+key=value adds a new one)"
            node = node[name]
            path.append(name)
        break
    return "imtok train --cfg job prints all keys"


def _options(group: str) -> list[str]:
    return [file.stem for file in (Path(__file__).parent / group).glob("*.yaml")]


@cache
def _group_names(config_name: str) -> tuple[str, ...]:
    import yaml

    here = Path(__file__).parent
    listed = yaml.safe_load((here / f"{config_name}.yaml").read_text()).get("defaults", [])
    keys = [key for entry in listed if isinstance(entry, dict) for key in entry]
    return tuple(key for key in keys if not key.startswith("override "))
