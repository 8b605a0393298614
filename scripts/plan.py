"""Say what a training run will need before it starts: parameters, FLOPs, memory, tokens."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..common.arguments import take_out, whole_number
from ..common.console import codebook_words

if TYPE_CHECKING:
    from ..training.cost.update import UpdateCost

HELP = """\
usage: imtok plan experiment=NAME [devices=N] [key=value ...] [--json]

{doc}
Nothing is computed and no weights are read: tensors have shapes only, at the batch size of the run.
devices=N: of a run of so many processes, which share data.batch_size; memory is that of one device.
Memory counts tensors; the libraries (CUDA context, convolution workspaces) add to it. A compiled model needs less.

examples:
  imtok plan experiment=llamagen_vq16 data.batch_size=16
  imtok plan experiment=titok_s128/stage1 devices=8 data.batch_per_device=16
  imtok plan experiment=vqgan_f16_1024 trainer.precision=bf16 --json"""


def facts(config: Mapping[str, Any], cost: "UpdateCost") -> dict[str, Any]:
    """Everything that is printed, as plain values."""
    division = cost.division
    images, updates = division.images, int(config["trainer"]["max_updates"])
    return {
        "experiment": config.get("name"),
        "parameters": cost.parameters,
        "trained": cost.trained,
        "forward_flops_per_image": cost.forward_flops,
        "update_flops": cost.update_flops,
        "memory_bytes": cost.memory,
        "memory_total_bytes": cost.total_memory,
        "precision": cost.precision,
        "batch_size": images,
        "devices": division.processes,
        "accumulate": division.accumulate,
        "batch_per_device": division.per_device,
        "images_per_update": images,
        "lr": config["optimizer"].get("lr"),
        "updates": updates,
        "images_seen": images * updates,
        "tokens_per_image": cost.tokens_per_image,
        "codebook_size": cost.codebook_size,
        "bits_per_image": cost.bits_per_image,
        "tokens_per_update": cost.tokens_per_image * images,
        "notes": cost.notes,
    }


def amount(number: float, *, base: int = 1000) -> str:
    """Three digits or so and the unit that suits: 0.23 M, 3.1 G; with base 1024 in bytes: 12.5 MiB."""
    units = ("", "k", "M", "G", "T", "P") if base == 1000 else ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    for unit in units:
        if abs(number) < base or unit == units[-1]:
            break
        number /= base
    digits = 0 if unit in ("", "B") else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:.{digits}f} {unit}".rstrip()


def print_plan(plan: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    def table(title: str, rows: Mapping[str, str]) -> None:
        grid = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
        grid.add_column(min_width=34)
        grid.add_column(justify="right", min_width=14)
        for name, value in rows.items():
            grid.add_row(name, value)
        console.print(grid)
        console.print()

    console = Console()
    console.print(f"[bold]{plan['experiment']}[/bold]\n")
    parameters = {name: amount(n) for name, n in plan["parameters"].items()}
    batch = {
        "images of one update": f"{plan['images_per_update']:,}",
        "devices": f"{plan['devices']:,}",
        "micro-batches": f"{plan['accumulate']:,}",
        "images that a device takes at once": f"{plan['batch_per_device']:,}",
    }
    table("batch", batch | ({"learning rate": f"{plan['lr']:g}"} if plan["lr"] is not None else {}))
    table("parameters", parameters | {"trained": amount(sum(plan["trained"].values()))})
    table("FLOPs, one forward of one image", {k: amount(v) for k, v in plan["forward_flops_per_image"].items()})
    table(
        f"FLOPs, one update of {plan['images_per_update']} images",
        {k: amount(v) for k, v in plan["update_flops"].items()},
    )
    memory = {name: amount(n, base=1024) for name, n in plan["memory_bytes"].items()}
    memory["total"] = amount(plan["memory_total_bytes"], base=1024)
    table(f"memory of a device: {plan['batch_per_device']} images, {plan['precision']}", memory)
    table(
        "tokens",
        {
            "tokens per image": f"{plan['tokens_per_image']}",
            "codebook": codebook_words(plan["codebook_size"]),
            "bits per image": f"{plan['bits_per_image']:g}",
            "tokens per update": f"{plan['tokens_per_update']:,}",
            f"images seen in {plan['updates']:,} updates": f"{plan['images_seen']:,}",
        },
    )
    for note in plan["notes"]:
        console.print(f"note: {note}")


def main(argv: Sequence[str]) -> int:
    if "-h" in argv or "--help" in argv:
        print(HELP.format(doc=__doc__))
        return 0

    from imtok.configs.compose import command_line, compose_config
    from imtok.training.cost.update import update_cost

    own, words = take_out([word for word in argv if word != "--json"], ["devices"])
    devices = whole_number(own, "devices", 1)
    config = compose_config("train", command_line(words, command="plan"))
    plan = facts(config, update_cost(config, processes=devices))
    if "--json" in argv:
        print(json.dumps(plan, indent=2))
    else:
        print_plan(plan)
    return 0
