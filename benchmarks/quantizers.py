"""Quantizers against vector-quantize-pytorch: steps interleaved in one process, peak memory in fresh ones."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments, add_device, find_device, positive
from ..common.errors import UserError, did_you_mean
from ..common.output_folder import add_overwrite, check_file
from .quantizer_cases import CASES, Case, make_step

if TYPE_CHECKING:
    import torch

BAR_TOKENS = 8 * 256
MIB = 2**20
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def parse(argv: Sequence[str]) -> Any:
    parser = Arguments(
        "benchmark quantizers",
        str(__doc__),
        examples=[
            "imtok benchmark quantizers",
            "imtok benchmark quantizers lfq18 vq16k --threads 1 --rounds 10",
            "imtok benchmark quantizers --device cuda --tokens 16384 --dtype bf16 --compile",
        ],
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--tokens", type=positive, help="default: 8 x 256, on CUDA 64 x 256")
    parser.add_argument("--library-tokens", type=positive, help="for the library, where all would take it tens of GiB")
    parser.add_argument("--rounds", type=positive, default=5, help="interleaved steps of each side (default 5)")
    parser.add_argument("--threads", type=positive, default=2, help="CPU threads (default 2, as the bars)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the vectors; default: bf16 on CUDA, else fp32")
    parser.add_argument(
        "--compile",
        nargs="?",
        const="both",
        choices=("off", "on", "both"),
        help="torch.compile; without a word: both. Default: both on CUDA, else off",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the processes that measure peak memory")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    add_overwrite(parser, what="the file of --json is there already")
    parser.add_argument("--memory-of", help="used by the command itself: case:side:tokens:dtype:compiled")
    add_device(parser)
    arguments = parser.parse_args(list(argv))
    for name in arguments.cases:
        if name not in CASES:
            raise UserError(f"there is no case {name!r}; {did_you_mean(name, CASES)}; known: {', '.join(CASES)}")
    if arguments.json is not None:
        check_file(arguments.json, key="--json", overwrite=arguments.overwrite)
    return arguments


def run(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(arguments.threads)
    try:
        return run_cases(arguments)
    finally:
        torch.set_num_threads(before)


def run_cases(arguments: Any) -> int:
    import torch

    device = find_device("cpu" if arguments.device == "auto" else arguments.device)  # the bars are for the CPU
    if arguments.memory_of:
        print(json.dumps(peak_memory(arguments.memory_of, device)))
        return 0
    on_gpu = device.type == "cuda"
    tokens = arguments.tokens or (64 * 256 if on_gpu else BAR_TOKENS)
    dtype = DTYPES[arguments.dtype or ("bf16" if on_gpu else "fp32")]
    compiled = {"off": (False,), "on": (True,), "both": (False, True)}[
        arguments.compile or ("both" if on_gpu else "off")
    ]
    where = torch.cuda.get_device_name(device) if on_gpu else f"{arguments.threads} CPU threads"
    print(f"{tokens} tokens, {dtype}, {where}, torch {torch.__version__}, {arguments.rounds} rounds, interleaved")

    rows = []
    for name in arguments.cases or CASES:
        for with_compile in compiled:
            row = measure(CASES[name], arguments, tokens=tokens, device=device, dtype=dtype, compiled=with_compile)
            rows.append(row)
            print(describe(row, CASES[name]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


def measure(
    case: Case, arguments: Any, *, tokens: int, device: "torch.device", dtype: str, compiled: bool
) -> dict[str, Any]:
    """Seconds a step of every side, and MiB; the ratio is of rounds at the same number of tokens."""
    fewer = min(tokens, arguments.library_tokens or case.library_tokens or tokens)
    sides = [("imtok", tokens)]
    if case.library is not None:
        sides += [("library", fewer)] + ([("imtok", fewer)] if fewer != tokens else [])
    row: dict[str, Any] = {"case": case.name, "what": case.what, "tokens": tokens, "compiled": compiled, "sides": []}
    memories = {
        side: fresh_process(f"{case.name}:{side[0]}:{side[1]}:{dtype}:{int(compiled)}", device, arguments.threads)
        for side in (() if arguments.no_memory else sides)
    }
    steps = {
        side: make_step(case, side[0], tokens=side[1], device=device, dtype=dtype, compiled=compiled) for side in sides
    }
    times: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    cpu_times: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    for round_ in range((2 if case.slow else arguments.rounds) + 1):
        for side, step in steps.items():
            seconds, cpu_seconds = timed(step, device)
            if round_ > 0:  # the first warms up: allocator, thread pool, compilation
                times[side].append(seconds)
                cpu_times[side].append(cpu_seconds)
    for side in sides:
        facts: dict[str, Any] = {"side": side[0], "tokens": side[1], "mebibytes": memories.get(side)}
        facts["out_of_memory"] = not arguments.no_memory and facts["mebibytes"] is None
        row["sides"].append(facts | {"seconds": times[side], "cpu_seconds": cpu_times[side]})
    if case.library is not None:
        row["ratios"] = [a / b for a, b in zip(times[("library", fewer)], times[("imtok", fewer)], strict=True)]
    return row


def timed(step: Any, device: "torch.device") -> tuple[float, float]:
    """Seconds, and CPU seconds of all threads: the steadier figure on a busy machine."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - cpu_start


def describe(row: dict[str, Any], case: Case) -> str:
    lines = [f"\n{row['what']}{' (compiled)' if row['compiled'] else ''}"]
    for side in row["sides"]:
        best, middle, worst = (1e3 * pick(side["seconds"]) for pick in (min, median, max))
        memory = "" if side["mebibytes"] is None else f"   {side['mebibytes']:7.0f} MiB extra"
        memory = "   memory: its process died" if side["out_of_memory"] else memory
        bar = ""
        if side["side"] == "imtok" and side["tokens"] == BAR_TOKENS and case.seconds is not None:
            bar = f"   to reach: {case.seconds:g} s, {case.mebibytes:g} MiB"
        cpu = 1e3 * median(side["cpu_seconds"])
        spread = f"best {best:8.1f} ms, median {middle:8.1f}, worst {worst:8.1f}, CPU {cpu:8.1f}"
        lines.append(f"  {side['side']:<8} {side['tokens']:>6} tokens   {spread}{memory}{bar}")
    if "ratios" in row:
        ratios = row["ratios"]
        at = next(side["tokens"] for side in row["sides"] if side["side"] == "library")
        spread = f"{min(ratios):.1f} to {max(ratios):.1f} over {len(ratios)} rounds"
        lines.append(f"  imtok is {median(ratios):.1f} times as fast at {at} tokens ({spread})")
    else:
        lines.append("  vector-quantize-pytorch has none")
    return "\n".join(lines)


# -- peak memory, in a process of its own ------------------------------------------------------------------------------


def fresh_process(what: str, device: "torch.device", threads: int) -> float | None:
    """MiB above the imports; None where the process died (out of memory)."""
    words = ["--memory-of", what, "--threads", str(threads), "--device", str(device)]
    command = [sys.executable, "-m", "imtok.scripts.cli", "benchmark", "quantizers"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def peak_memory(what: str, device: "torch.device") -> float:
    name, side, tokens, dtype, compiled = what.split(":")
    import torch
    import vector_quantize_pytorch  # noqa: F401 - both sides start with the same imports

    make = partial(
        make_step, CASES[name], side, tokens=int(tokens), device=device, dtype=dtype, compiled=compiled == "1"
    )
    if device.type == "cuda":
        step = make()
        step()
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) / MIB
    torch.ones(8).sum().item()
    before = reset_peak()
    step = make()
    for _ in range(1 if CASES[name].slow else 3):
        step()
    return (peak_bytes() - before) / MIB


def peak_bytes() -> int:
    """The highest resident size of this process; ru_maxrss alone would carry over the parent's through vfork."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def reset_peak() -> int:
    """Peak bytes so far, first lowered to what is resident now where Linux lets us."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()
