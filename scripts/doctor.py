"""Check this machine, or check a run by its metrics.csv and name the YAML key that would help."""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ..common.arguments import Arguments
from ..common.cores import usable_cores
from ..common.files import cache_folder
from .shared.run_verdict import Line, check_run

EXAMPLES = ("imtok doctor", "imtok doctor runs/quickstart/STAMP")
OPTIONAL = {
    "wandb": "logger=[csv,wandb]",
    "tensorboard": "logger=[csv,tensorboard]",
    "transformers": "teachers and text towers",
}
LPIPS_FILES = {"vgg16-397923af.pth": "LPIPS in training and reports", "alexnet-owt-7be5be79.pth": "lpips_alex"}


def check_machine() -> list[Line]:
    optional = [_optional(package, use) for package, use in OPTIONAL.items()]
    return [_python(), *_torch(), _memory(), _disk(), *optional, _cache(), _hub(), *_weights()]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Line:
    found = f"{platform.python_version()} at {sys.executable}"
    return Line(sys.version_info >= (3, 11), "python", found, "3.11 or newer")


def _torch() -> list[Line]:
    import torch

    # A torchvision wheel is built against one torch and says so.
    needs = [r for r in importlib.metadata.requires("torchvision") or () if re.match(r"torch\s*==", r)]
    wanted = needs[0].partition("==")[2].split(";")[0].strip() if needs else None
    pair = wanted is None or torch.__version__.split("+")[0] == wanted.split("+")[0]
    said = f"{torch.__version__} with torchvision {_version('torchvision')}" + ("" if pair else f", built for {wanted}")
    lines = [Line(pair, "torch", said, "pip install --upgrade torch torchvision, together")]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            bf16 = "bf16" if facts.major >= 8 else "no bf16: trainer.precision=fp16"
            lines.append(Line(True, f"cuda:{number}", f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, {bf16}"))
    else:
        lines.append(Line(None, "cuda", "none that torch sees; training runs on the CPU"))
    from imtok.common.precision import has_matrix_units

    said = f"{usable_cores()} cores for this process, torch uses {torch.get_num_threads()} threads; "
    fast = has_matrix_units("bf16", "cpu")
    said += "bf16 matrix units (AMX)" if fast else "no bf16 matrix units: trainer.precision=fp32 is far quicker here"
    lines.append(Line(None, "cpu", said))
    return lines


def _memory() -> Line:
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        return Line(None, "memory", "unknown on this system")
    remedy = "less than 2 GiB: lower data.batch_size, close other programs"
    return Line(pages > 2, "memory", f"{pages:.1f} GiB free", remedy)


def _disk() -> Line:
    free = shutil.disk_usage(".").free / 2**30
    return Line(free > 2, "disk", f"{free:.1f} GiB free here", "less than 2 GiB: hydra.run.dir=DIR on another disk")


def _optional(package: str, use: str) -> Line:
    version = _version(package)
    return Line(version is not None or None, package, version or f"not installed; for {use}: pip install {package}")


def _cache() -> Line:
    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return Line(os.access(existing, os.W_OK), "cache", str(folder), "not writable: set IMTOK_CACHE=DIR")


def _hub() -> Line:
    offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Line(None, "hugging face", f"{'offline (HF_HUB_OFFLINE=1)' if offline else 'online'}, cache {home}")


def _weights() -> list[Line]:
    """The published networks of losses and metrics: present, or where they are looked for."""
    import torch

    from imtok.eval.metrics.inception import PUBLISHED

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    lines = []
    for name, use in {PUBLISHED.name: "rFID and IS", **LPIPS_FILES}.items():
        there = (folder / name).is_file()
        missing = f"not in {folder}; fetched when {use} first needs it (offline: copy {name} there)"
        lines.append(Line(there or None, name.split("-")[0], str(folder / name) if there else missing))
    return lines


def print_lines(title: str, lines: Sequence[Line]) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(soft_wrap=True)
    console.print(f"[bold]{escape(title)}[/bold]")
    marks = {True: "[green]ok  [/green]", False: "[red]bad [/red]", None: "    "}
    for line in lines:
        remedy = f"\n{'':20}try: {escape(line.remedy)}" if line.ok is False and line.remedy else ""
        console.print(f"{marks[line.ok]}{escape(line.name):<15} {escape(line.said)}{remedy}", highlight=False)


def main(argv: Sequence[str]) -> int:
    parser = Arguments("doctor", str(__doc__), examples=EXAMPLES)
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="a run folder; without it the machine is checked"
    )
    options = parser.parse_args(argv)
    lines = check_machine() if options.run is None else check_run(options.run)
    print_lines("this machine" if options.run is None else str(options.run), lines)
    return 1 if any(line.ok is False for line in lines) else 0
