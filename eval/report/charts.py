"""Small SVG charts, drawn by hand: no script, no fonts to fetch, colours from the page's CSS."""

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34


def _nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _label(value: float) -> str:
    if value and (abs(value) >= 1e4 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:,.6g}"


class Axes:
    """Data to picture coordinates, on linear or log scales."""

    def __init__(
        self, *, x: Point, y: Point, width: int, height: int, log_x: bool = False, log_y: bool = False
    ) -> None:
        self.width, self.height, self.log_x, self.log_y = width, height, log_x, log_y
        self.x, self.y = self._span(x, log_x), self._span(y, log_y)

    @staticmethod
    def _span(limits: Point, log: bool) -> Point:
        low, high = (math.log10(v) for v in limits) if log else limits
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def at_x(self, value: float) -> float:
        value = math.log10(value) if self.log_x else value
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.width - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        value = math.log10(value) if self.log_y else value
        return self.height - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - TOP - BOTTOM)

    def _ticks(self, span: Point, log: bool, count: int) -> list[float]:
        if not log:
            return _nice_ticks(*span, count)
        powers = range(math.ceil(span[0] - 1e-9), math.floor(span[1] + 1e-9) + 1)
        if len(powers) <= 2:
            return [m * 10.0**p for p in range(math.floor(span[0]), math.ceil(span[1])) for m in (1, 2, 5)
                    if span[0] - 1e-9 <= math.log10(m) + p <= span[1] + 1e-9]  # fmt: skip
        step = max(1, math.ceil(len(powers) / (count + 1)))
        return [10.0**p for p in powers[::step]]

    def frame(self, x_label: str, y_label: str, *, x_ticks: Sequence[float] | None = None) -> str:
        parts = []
        for tick in self._ticks(self.y, self.log_y, 4):
            y = self.at_y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end">{_label(tick)}</text>')
        base = self.height - BOTTOM
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{base}" y2="{base}"/>')
        for tick in x_ticks or self._ticks(self.x, self.log_x, max(2, self.width // 90)):
            x = self.at_x(tick)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 14}" text-anchor="middle">{_label(tick)}</text>')
        if x_label:
            middle = (LEFT + self.width - RIGHT) / 2
            text = escape(x_label)
            parts.append(f'<text class="name" x="{middle}" y="{self.height - 4}" text-anchor="middle">{text}</text>')
        if y_label:
            parts.append(f'<text class="name" x="{LEFT}" y="{TOP - 1}" dx="-40">{escape(y_label)}</text>')
        return "".join(parts)


def _svg(width: int, height: int, inside: str, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )


def histogram_chart(
    counts: Sequence[int], low: float, high: float, *, x_label: str, marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Bars, with named vertical marks (mean, median)."""
    width, height = 460, 220
    axes = Axes(x=(low, high), y=(0, max(counts) * 1.12), width=width, height=height)
    bar = (high - low) / len(counts)
    parts = [axes.frame(x_label, "")]
    for i, count in enumerate(counts):
        if count:
            x, x2, y = axes.at_x(low + i * bar), axes.at_x(low + (i + 1) * bar), axes.at_y(count)
            tip = f"{low + i * bar:.2f} to {low + (i + 1) * bar:.2f}: {count:,}"
            parts.append(
                f'<rect class="bar" x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(0.5, x2 - x - 1):.1f}" '
                f'height="{height - BOTTOM - y:.1f}"><title>{tip}</title></rect>'
            )
    for value, name in marks:
        x = axes.at_x(value)
        anchor, dx = ("end", -4) if x > width * 0.75 else ("start", 4)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(
            f'<text class="note" x="{x:.1f}" dx="{dx}" y="{TOP + 9}" text-anchor="{anchor}">{escape(name)}</text>'
        )
    return _svg(width, height, "".join(parts), f"distribution of {x_label}")


def rank_chart(
    series: Sequence[tuple[str, Sequence[Point]]], *, uniform: float | None, x_label: str, y_label: str
) -> str:
    """Sorted counts on log-log axes; `uniform` is the level that equal use would have."""
    width, height = 460, 220
    points = [p for _, line in series for p in line]
    ys = [y for _, y in points] + ([uniform] if uniform else [])
    limits = (max(0.5, min(ys) * 0.8), max(ys) * 1.25)
    axes = Axes(x=(1, max(2, *(x for x, _ in points))), y=limits, width=width, height=height, log_x=True, log_y=True)
    parts = [axes.frame(x_label, y_label)]
    if uniform:
        y = axes.at_y(uniform)
        parts.append(f'<line class="mark" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="note" x="{LEFT + 4}" y="{y - 4:.1f}">equal use</text>')
    parts += [_line(axes, line, number, name) for number, (name, line) in enumerate(series)]
    return _svg(width, height, "".join(parts), f"{y_label} by {x_label}")


def curve_chart(series: Sequence[tuple[str, Sequence[Point]]], *, x_label: str) -> str:
    """One small multiple: train and validation of one quantity over updates."""
    width, height = 300, 150
    points = [p for _, line in series for p in line]
    (x_low, x_high), (y_low, y_high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    margin = (y_high - y_low) * 0.06
    axes = Axes(x=(x_low, x_high), y=(y_low - margin, y_high + margin), width=width, height=height)
    lines = [_line(axes, line, 0 if name == "train" else 1, name) for name, line in series]
    return _svg(width, height, axes.frame(x_label, "") + "".join(lines), ", ".join(name for name, _ in series))


def length_chart(series: Sequence[tuple[str, Sequence[Point]]], *, ticks: Sequence[float], x_label: str) -> str:
    """One metric over tokens, on a scale of doublings: the tokenizer, and codecs where their files are as small."""
    width, height = 460, 220
    xs, ys = zip(*(p for _, line in series for p in line), strict=True)
    low, high = min(ys), max(ys)
    margin = (high - low) * 0.06
    x_limits = (min(*xs, *ticks), max(*xs, *ticks))
    axes = Axes(x=x_limits, y=(low - margin, high + margin), width=width, height=height, log_x=True)
    doublings = range(math.ceil(math.log2(x_limits[0])), math.floor(math.log2(x_limits[1])) + 1)
    parts = [axes.frame(x_label, "", x_ticks=[2.0**i for i in doublings[:: 1 + len(doublings) // 12]])]
    for number, (name, line) in enumerate(series):
        if len(line) > 1:
            parts.append(_line(axes, line, number, name))
        parts += [
            f'<circle class="point s{number % 4}" cx="{axes.at_x(x):.1f}" cy="{axes.at_y(y):.1f}" r="2.8">'
            f"<title>{escape(name)}: {_label(round(y, 4))} at {_label(round(x, 1))} tokens</title></circle>"
            for x, y in line
        ]
    return _svg(width, height, "".join(parts), f"{', '.join(name for name, _ in series)} by {x_label}")


def _line(axes: Axes, points: Sequence[Point], number: int, name: str) -> str:
    if len(points) == 1:
        x, y = points[0]
        return f'<circle class="dot s{number % 4}" cx="{axes.at_x(x):.1f}" cy="{axes.at_y(y):.1f}" r="2.5"/>'
    path = " ".join(f"{axes.at_x(x):.1f},{axes.at_y(y):.1f}" for x, y in points)
    return f'<polyline class="line s{number % 4}" points="{path}"><title>{escape(name)}</title></polyline>'
