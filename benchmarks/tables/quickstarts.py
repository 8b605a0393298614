"""Train experiments for equal time and write what they reach on held-out images: the tables in docs/one_dimensional.md.

    python benchmarks/tables/quickstarts.py quickstart quickstart_1d quickstart_flow --seconds 300 --place cpu
    python benchmarks/tables/quickstarts.py quickstart quickstart_1d quickstart_flow --seconds 600 --place gpu \\
        --set data.image_size=128 --set data.batch_size=32

Equal time: a short run measures images a second, then each experiment gets the number of updates that fills the time,
so that its learning-rate schedule ends where its time does. Validation, evaluation and start-up are not counted; the
seconds in the table are those that the run then took. Without --seconds an experiment trains as long as its YAML says.
Runs that are there already are read, not made again.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imtok.benchmarks.tables.runs import ROOT, table_row, train, written_between
from imtok.eval.report.training_curves import read_columns

PAGE = ROOT / "docs" / "one_dimensional.md"
BEGIN = "<!-- measured {place}: written by benchmarks/tables/quickstarts.py -->"
END = "<!-- end of measured {place} -->"
MEASURED = ("protocol=mini", "protocol.metrics=[psnr,ssim,l1,codebook]")
PROBE = 60  # updates; the first third warms up and is not counted


@dataclass
class Run:
    name: str
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text())

    @property
    def images_per_update(self) -> int:
        config = yaml.safe_load((self.folder / "config.yaml").read_text())
        return int(config["data"]["batch_size"])

    def speeds(self) -> list[tuple[float, float]]:
        """(update, images a second since the one before)"""
        return read_columns(self.folder / "metrics.csv").get("train/images_per_second", [])

    @property
    def updates(self) -> int:
        return int(self.metrics["model"]["update"])

    @property
    def training_seconds(self) -> float:
        """Updates only, each stretch at the speed that it was logged with."""
        seconds, last, speed = 0.0, 0.0, 0.0
        for update, speed in self.speeds():
            seconds, last = seconds + (update - last) * self.images_per_update / speed, update
        return seconds + ((self.updates - last) * self.images_per_update / speed if speed else 0.0)


def updates_for(seconds: float, probe: Run) -> int:
    speeds = [speed for update, speed in probe.speeds() if update > PROBE // 3]
    mean = len(speeds) / sum(1 / speed for speed in speeds)  # of equally long stretches
    return max(1, round(seconds * mean / probe.images_per_update))


def made(name: str, options: argparse.Namespace) -> Run:
    length = f"{options.seconds:g}s" if options.seconds else "own_updates"
    run = Run(name, (options.runs / f"{name.replace('/', '_')}-{length}").resolve())
    if (run.folder / "metrics.json").is_file():
        print(f"{name}: reading {run.folder}", flush=True)
        return run
    words = [f"experiment={name}", *MEASURED, *options.set]
    words += [f"trainer.threads={options.threads}"] if options.threads else []
    if options.seconds:
        probe = Run(name, run.folder.with_name(f"{run.folder.name}-probe"))
        short = [f"trainer.{key}={PROBE}" for key in ("max_updates", "validate_every", "checkpoint_every")]
        words_of_probe = [*words, *short, "trainer.log_every=10", "evaluate_after=false"]
        train(name, probe.folder, words_of_probe, threads=options.threads)
        count = updates_for(options.seconds, probe)
        shutil.rmtree(probe.folder)
        words += [f"trainer.{key}={count}" for key in ("max_updates", "validate_every", "checkpoint_every")]
    train(name, run.folder, words, threads=options.threads)
    return run


def row(run: Run) -> str:
    found = run.metrics
    model = found["model"]
    cells = [
        f"`{run.name}`",
        f"{model['parameters'] / 1e6:.2f} M",
        f"{model['tokens']}",
        f"{model['bits_per_image']:,.0f}",
        f"{run.updates:,}",
        f"{run.training_seconds:.0f}",
        f"{found['psnr']['mean']:.2f}",
        f"{found['psnr']['mean'] - found['psnr_mean_colour']:+.2f}",
        f"{found['ssim']['mean']:.3f}",
        f"{found['usage']:.0%}" if "usage" in found else "-",
    ]
    return table_row(cells)


def table(runs: list[Run]) -> list[str]:
    heads = "parameters | tokens | bits | updates | training, s | PSNR, dB | over the mean colour | SSIM | usage"
    lines = [f"| experiment | {heads} |", "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|", *map(row, runs)]
    curves = {run.name: run.metrics["curve"] for run in runs if "curve" in run.metrics}
    for name, curve in curves.items():
        points = curve["points"]
        lines += ["", f"PSNR of `{name}` by tokens, {curve['images']} images, and of files with as many bytes:", ""]
        lines += [table_row(["tokens", *(str(p["tokens"]) for p in points)]), "|---|" + "--:|" * len(points)]
        if "bytes" in points[0]:
            lines.append(table_row(["bytes", *(f"{p['bytes']:.3g}" for p in points)]))
        lines.append(table_row([f"`{name}`", *(f"{p['psnr']:.2f}" for p in points)]))
        for codec, found in curve["codecs"].items():
            cells = [f"{p['psnr']:.2f}" if p["fit"] == curve["images"] else "-" for p in found["points"]]
            least = f"{found['smallest']['bytes']:.0f} bytes, {found['smallest']['psnr']:.2f} dB"
            lines.append(table_row([f"{codec} (smallest: {least})", *cells]))
    return lines


def written(runs: list[Run], options: argparse.Namespace) -> str:
    made_with, found = runs[0].metrics["provenance"], runs[0].metrics
    where = made_with["device"] + (f", {options.threads} threads" if options.threads else "")
    length = f"{options.seconds:g} s of training each" if options.seconds else "as long as each YAML says"
    size = "x".join(map(str, found["image_size"]))
    floor = found["psnr_mean_colour"]
    about = (
        f"{length}{''.join(f', `{word}`' for word in options.set)}, on {where}; {found['num_images']} held-out images "
        f"of {size}, whose own mean colours reach {floor:.2f} dB. {made_with['date']}, commit {made_with['git']}, "
        f"torch {made_with['packages']['torch']}."
    )
    return "\n".join([about[0].upper() + about[1:], "", *table(runs)])


def with_table(page: str, text: str, place: str) -> str:
    begin, end = BEGIN.format(place=place), END.format(place=place)
    if begin not in page or end not in page:
        raise SystemExit(f"--place {place}: {PAGE.name} has no {begin}")
    return written_between(page, begin, end, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--seconds", type=float, help="of training, each; without it as long as the YAML says")
    parser.add_argument("--threads", type=int, help="CPU threads of a run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all of them; repeatable")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), metavar="DIR")
    parser.add_argument("--place", metavar="NAME", help="write between the marks `measured NAME` of the page")
    options = parser.parse_args()
    runs = []
    for name in options.experiments:
        runs.append(made(name, options))
        print(row(runs[-1]), flush=True)
    text = written(runs, options)
    print(text)
    if options.place:
        PAGE.write_text(with_table(PAGE.read_text(), text, options.place))


if __name__ == "__main__":
    main()
