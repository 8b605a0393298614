"""Train a tokenizer, then export it, evaluate it and write its report."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What Hydra's own parser knows; for anything else it would print twelve lines of usage.
# fmt: off
HYDRA_FLAGS = (
    "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m", "--info", "-i", "--version",
    "--hydra-help", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--experimental-rerun",
)
# fmt: on

HELP = """\
usage: imtok train [experiment=NAME] [key=value ...]      (the same as `python train.py ...` in a clone)

{doc}

  experiment=NAME              one of: {experiments}
  data=NAME                    {data}; data.root=DIR for data=folder
  tokenizer/quantizer=NAME     {quantizers}
  trainer.max_updates=1000     how long
  data.batch_size=8 data.image_size=256
  loss.lpips.weight=0.5        any key of the config
  ckpt_path=last               go on with the newest run of this experiment
  trust=true                   with ckpt_path: take over whatever that run recorded, also classes outside imtok
  init_from=DIR                start from an exported tokenizer; freeze=[encoder,quantizer] keeps parts as they are
  debug=tiny                   two updates of whatever is selected, small, on CPU
  --config-dir DIR             YAML files of your own: DIR/experiment/mine.yaml is experiment=mine
  --cfg job --resolve          print the whole config and stop; -m data.batch_size=2,4 runs one after another

examples:
  imtok train experiment=quickstart
  imtok train experiment=llamagen_vq16 data=folder data.root=photos trainer.max_updates=20000
  imtok train --config-dir my_configs experiment=mine

`imtok recipes` lists the experiments, `imtok plan experiment=NAME` says what a run will need."""


def help_text() -> str:
    from .shared.names import names

    lists = {"experiments": names("experiment"), "data": names("data"), "quantizers": names("tokenizer/quantizer")}
    return HELP.format(doc=__doc__, **lists)


def hydra_arguments(argv: Sequence[str]) -> list[str]:
    """The command line for Hydra: with what `ckpt_path` takes over from an earlier run."""
    from ..configs.compose import command_line, register_resolvers
    from ..training.resume import arguments_for_resume

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come through to us instead of Hydra's own report
    register_resolvers()
    return arguments_for_resume(command_line(argv, command="train", flags=HYDRA_FLAGS))


def train(cfg: "DictConfig") -> int:
    """One run, of what Hydra composed; returns the exit code."""
    from hydra.core.hydra_config import HydraConfig

    from ..configs.compose import readable_errors, settle

    hydra = HydraConfig.get()
    given, folder = list(hydra.overrides.task), Path(hydra.runtime.output_dir)
    try:
        with readable_errors("train", given):
            config = settle(cfg, given)
        note_other_packages(config["tokenizer"])
        from ..training.run import run

        return run(config, overrides=given, folder=folder)
    except Exception:
        with suppress(OSError):  # Hydra made it; nothing is in it where we refused to begin
            folder.rmdir()
        raise


def note_other_packages(tokenizer: dict) -> None:
    """An export names its classes, and those of other packages are loaded for those who trust them only."""
    from ..common.console import say
    from ..configs.swaps import class_nodes

    for key, node in class_nodes(tokenizer, "tokenizer"):
        package = str(node["_target_"]).partition(".")[0]
        if package != "imtok":
            say(
                f"note: {key} is {node['_target_']}, so the export will need trusted=[{package}] to be loaded "
                f"(imtok.from_pretrained, imtok evaluate; --trust {package} for other commands)"
            )
