"""Train the quickstarts of docs/unified.md and print its tables: `python benchmarks/tables/unified.py FOLDER`."""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from imtok.common.cores import usable_cores
from imtok.configs.compose import compose_config

RUNS = ("quickstart", "quickstart_dual", "quickstart_clip")
COMMON = ["protocol=mini", "protocol.probes=auto", "protocol.probe_images=4096", "trainer.accelerator=cpu"]


def imtok(*words: str, cwd: Path) -> tuple[float, float]:
    """Runs a command; seconds on the clock, and of all cores together."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.perf_counter()
    subprocess.run([sys.executable, "-m", "imtok.scripts.cli", *words], cwd=cwd, check=True)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def rows(name: str, folder: Path, took: tuple[float, float], updates: int) -> list[str]:
    results = json.loads((folder / "metrics.json").read_text())
    head = f"| {name} | {updates:,} | {took[0]:.0f} | {took[1]:.0f} |"
    lines = [f"{head} PSNR | {results['psnr']['mean']:.2f} dB | {results['num_images']} | |"]
    lines += [f"{head} bits an image | {results['bits_per_image']:g} | | |"]
    for number in results.get("meaning", ()):
        path = {True: "quantized", False: "before", None: "inner"}[number["through_quantizer"]]
        value = f"{number['value']:.3f}" if number["probe"] == "teacher_cosine" else f"{number['value']:.1%}"
        fitted = "" if number["fitted_on"] is None else f"{number['fitted_on']:,}"
        lines.append(f"{head} {number['name']} ({number['stream']}, {path}) | {value} | {number['n']} | {fitted} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder for the runs, or one of this script to go on in")
    parser.add_argument("--only", nargs="*", default=RUNS, choices=RUNS)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of updates")
    parser.add_argument("--threads", type=int, default=usable_cores())
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    table = [
        "| experiment | updates | s | CPU s | | value | held-out images | fitted on |",
        "|---|--:|--:|--:|---|--:|--:|--:|",
    ]
    if not (folder / "runs/teachers/generated.safetensors").exists():
        seconds, cpu = imtok("train-teacher", cwd=folder)
        print(f"teacher: {seconds:.0f} seconds, {cpu:.0f} of all cores", flush=True)
    for name in options.only:
        own_updates = compose_config("train", [f"experiment={name}"])["trainer"]["max_updates"]
        updates, run = round(own_updates * options.scale), folder / name
        words = [f"experiment={name}", f"hydra.run.dir={run}", f"trainer.max_updates={updates}"]
        words += [f"trainer.{key}={updates}" for key in ("validate_every", "checkpoint_every")]
        took = imtok("train", *words, *COMMON, f"trainer.threads={options.threads}", cwd=folder)
        table += rows(name, run, took, updates)
        print("\n".join(table), flush=True)
    (folder / "table.md").write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
