"""Train a tokenizer, then export it, evaluate it and write its report."""

import sys
from collections.abc import Sequence
from pathlib import Path

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
  --cfg job --resolve          print the whole config and stop

examples:
  imtok train experiment=quickstart
  imtok train experiment=llamagen_vq16 data=folder data.root=photos trainer.max_updates=20000

`imtok recipes` lists the experiments, `imtok plan experiment=NAME` says what a run will need."""


def names(group: str) -> str:
    """The YAML files of a config group, as words."""
    from .. import configs

    folder = Path(configs.__file__).parent / group
    return " | ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "(none)"


def main(argv: Sequence[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(
            HELP.format(
                doc=__doc__,
                experiments=names("experiment"),
                data=names("data"),
                quantizers=names("tokenizer/quantizer"),
            )
        )
        return 0
    sys.argv = ["imtok train", *argv]  # Hydra reads it
    from imtok.train import main as train

    train()
    return 0
