"""Write the table in docs/quantizers.md: every quantizer YAML swapped into `quickstart`, 300 updates, held-out numbers.

    python benchmarks/tables/quantizers.py [NAME ...] [--runs FOLDER]

A run is made where there is none, or one of other settings; about 50 seconds of one core each, one after the other.
Quantizers that read two streams do not fit into `quickstart` and are left out.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from imtok.benchmarks.tables.runs import ROOT, table_row, train, written_between
from imtok.common.build import locate
from imtok.common.console import codebook_words
from imtok.configs.compose import compose_config

PAGE = ROOT / "docs" / "quantizers.md"
YAMLS = ROOT / "configs" / "tokenizer" / "quantizer"
BEGIN, END = "<!-- table: written by benchmarks/tables/quantizers.py -->", "<!-- end of table -->"
SETTINGS = ("experiment=quickstart", "trainer.max_updates=300", "protocol=mini", "protocol.metrics=[psnr,codebook]")
ENOUGH = 0.3  # of the codes; a YAML whose run stays below says why in its comment


def is_current(name: str, folder: Path) -> bool:
    """Whether the run there has the settings that it would get now."""
    if not (folder / "metrics.json").is_file():
        return False
    ran = yaml.safe_load((folder / "config.yaml").read_text())
    now = compose_config("train", [*SETTINGS, f"tokenizer/quantizer={name}"])
    return all(ran.get(node) == now[node] for node in ("tokenizer", "loss", "data", "optimizer", "trainer"))


def reads_one_stream(name: str) -> bool:
    node = yaml.safe_load((YAMLS / f"{name}.yaml").read_text())
    quantizer: Any = locate(node["_target_"], key="tokenizer.quantizer")
    return list(node.get("quantizers") or quantizer.reads) == ["main"]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def row(name: str, metrics: dict[str, Any]) -> str:
    model, books = metrics["model"], list(metrics.get("codebooks", {}).values())
    cells = [
        f"`{name}`",
        codebook_words(model["codebook_size"]),
        f"{model['tokens'] or '-'}",
        f"{model['bits_per_image']:.0f}",
        f"{metrics['psnr']['mean']:.2f}",
    ]
    if not books:
        return table_row([*cells, "-", "-"])
    reachable = sum(b["uniform_ceiling"] for b in books) / len(books)
    within = f" of {reachable:.0%}" if reachable < 0.99 else ""
    return table_row([*cells, f"{metrics['usage']:.0%}{within}", f"{metrics['perplexity']:.0f}"])


def written(results: dict[str, dict[str, Any]], missing: Sequence[str] = ()) -> str:
    made = {name: (m["provenance"]["date"], m["provenance"]["git"]) for name, m in results.items()}
    dates, commits = sorted({d for d, _ in made.values()}), sorted({c for _, c in made.values()})
    any_ = next(iter(results.values()))
    command = " ".join(("imtok train", *SETTINGS, "tokenizer/quantizer=NAME"))
    lines = [
        f"`{command}`, {dates[0]}{'' if len(dates) == 1 else f' to {dates[-1]}'}, commit {', '.join(commits)}, "
        f"torch {any_['provenance']['packages']['torch']} on one CPU thread; {any_['num_images']} held-out pictures. "
        f"A picture's own mean colour reaches {any_['psnr_mean_colour']:.2f} dB. Usage: share of the codes that these "
        "pictures' tokens choose at least once; usage and perplexity are means over codebooks where there are several. "
        '"of N %": what as many even draws would reach.',
        "",
        "| quantizer | codes | tokens | bits/image | PSNR dB | usage | perplexity |",
        "|---|---|---|---|---|---|---|",
        *(row(name, results[name]) for name in sorted(results)),
        *(["", f"Not run yet: {', '.join(missing)}."] if missing else []),
    ]
    return "\n".join(lines)


def with_table(page: str, table: str) -> str:
    return written_between(page, BEGIN, END, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default: all; the page shows every run that is in the folder")
    parser.add_argument("--read", action="store_true", help="train nothing, write the page from what is there")
    parser.add_argument("--runs", type=Path, default=Path("runs/quantizer_table"))
    options = parser.parse_args()
    names = sorted(path.stem for path in YAMLS.glob("*.yaml") if reads_one_stream(path.stem))
    for name in [] if options.read else options.names or names:
        if not is_current(name, options.runs / name):
            train(name, options.runs / name, [*SETTINGS, f"tokenizer/quantizer={name}"], threads=1)
        print(row(name, read(options.runs / name)), flush=True)
    results = {name: read(options.runs / name) for name in names if (options.runs / name / "metrics.json").is_file()}
    low = [name for name, m in results.items() if m.get("usage", 1) < ENOUGH]
    print(f"below {ENOUGH:.0%} usage: {', '.join(low) or 'none'}")
    missing = sorted(set(names) - set(results))
    print(f"not run yet: {', '.join(missing) or 'none'}")
    PAGE.write_text(with_table(PAGE.read_text(), written(results, missing)))


if __name__ == "__main__":
    main()
