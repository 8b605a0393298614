"""Train a tokenizer: `python train.py experiment=NAME key=value ...`, the same as `imtok train ...`."""

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from imtok.common.errors import errors_as_one_line
from imtok.configs.compose import readable_errors
from imtok.scripts.train import help_text, hydra_arguments, train


@hydra.main(version_base="1.3", config_path="pkg://imtok.configs", config_name="train")
def task(cfg: DictConfig) -> None:
    with errors_as_one_line():  # Hydra would print a line of its own above
        code = train(cfg)
    if code:
        raise SystemExit(code)


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if "-h" in argv or "--help" in argv:
        print(help_text())
        return 0
    with errors_as_one_line():
        sys.argv[1:] = hydra_arguments(argv)  # where Hydra reads them
        with readable_errors("train", sys.argv[1:]):
            task()
    return 0


if __name__ == "__main__":
    sys.exit(main())
