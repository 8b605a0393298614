"""Arms of a benchmark in turns in one process, and their ratio with its spread."""

import statistics
from collections.abc import Callable, Mapping, Sequence


def interleaved(
    arms: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds an arm, a value a round; each arm runs once before, unmeasured."""
    for arm in arms.values():
        arm()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            start = clock()
            arm()
            seconds[name].append(clock() - start)
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Of rounds that ran side by side: median, smallest, largest."""
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": statistics.median(each), "min": min(each), "max": max(each)}


def print_result(title: str, seconds: Mapping[str, Sequence[float]], ratios: Mapping[str, Mapping[str, float]]) -> None:
    print(title)
    for name, values in seconds.items():
        print(f"  {name:<34} {statistics.median(values):9.4f} s  ({min(values):.4f} to {max(values):.4f})")
    for name, r in ratios.items():
        print(f"  {name:<34} {r['median']:9.3f}    ({r['min']:.3f} to {r['max']:.3f})")
