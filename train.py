"""Train a tokenizer: `python train.py experiment=NAME key=value ...`, the same as `imtok train ...`."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# fmt: off
HYDRA_FLAGS = (
    "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r", "--multirun", "-m", "--info", "-i", "--version",
    "--hydra-help", "--shell-completion", "-sc", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn",
    "--experimental-rerun",
)
# fmt: on


def check_flags(arguments: Sequence[str]) -> None:
    """Hydra's parser would answer an unknown flag with twelve lines of usage."""
    from imtok.common.errors import UserError

    for word in arguments:
        flag = word.partition("=")[0]
        if flag.startswith("-") and flag not in HYDRA_FLAGS:
            raise UserError(
                f"{flag}: settings are key=value, such as data.root=DIR (`imtok train --help` lists the usual ones)"
            )


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "-h" in arguments or "--help" in arguments:  # answered without Hydra and torch
        from imtok.scripts.train import main as command

        command(["--help"])
        return
    from imtok.common.errors import errors_as_one_line
    from imtok.configs.compose import readable_errors, register_resolvers, settle, with_home

    exit_codes, failures = [0], []
    with errors_as_one_line():
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import DictConfig

        from imtok.training.resume import arguments_for_resume

        arguments = arguments_for_resume(with_home(arguments))
        overrides = [a for a in arguments if not a.startswith("-")]
        check_flags(arguments)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come through to us instead of Hydra's own report
        register_resolvers()

        @hydra.main(version_base="1.3", config_path="pkg://imtok.configs", config_name="train")
        def task(cfg: DictConfig) -> None:
            hydra_config = HydraConfig.get()
            given = list(hydra_config.overrides.task)
            config = settle(cfg, given)
            from imtok.training.run import run

            folder = Path(hydra_config.runtime.output_dir)
            try:
                exit_codes.append(run(config, overrides=given, folder=folder))
            except Exception as error:  # Hydra would print a line of its own above ours
                failures.append(error)
                with suppress(OSError):  # Hydra made it; nothing is in it where we refused to begin
                    folder.rmdir()

        sys.argv = [sys.argv[0], *arguments]
        with readable_errors("train", overrides):
            task()
        for error in failures:
            raise error
    if max(exit_codes):
        raise SystemExit(max(exit_codes))


if __name__ == "__main__":
    main()
