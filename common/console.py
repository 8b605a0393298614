"""Lines for the terminal, printed by rank 0 alone."""

import os
import sys
from collections.abc import Sequence


def is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def launched_processes() -> int:
    """How many the launcher started, known before they have found each other."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(line: str, *, error: bool = False) -> None:
    if is_first_rank():
        print(f"imtok: {line}", file=sys.stderr if error else sys.stdout, flush=True)


def codebook_words(sizes: int | Sequence[int]) -> str:
    """1024, 4 x 256, 1024 and 64, or continuous."""
    sizes = [sizes] if isinstance(sizes, int) else list(sizes)
    if len(set(sizes)) > 1:
        return " and ".join(map(str, sizes))
    return "continuous" if not sizes else f"{sizes[0]}" if len(sizes) == 1 else f"{len(sizes)} x {sizes[0]}"
