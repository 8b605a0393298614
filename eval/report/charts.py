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


class Chart:
    """An image that grows by what is drawn into it. x, y: limits of the data, on linear or log scales."""

    def __init__(
        self, *, x: Point, y: Point, width: int = 460, height: int = 220, log_x: bool = False, log_y: bool = False
    ) -> None:
        self.width, self.height, self.log_x, self.log_y = width, height, log_x, log_y
        self.x, self.y = self._span(x, log_x), self._span(y, log_y)
        self.right, self.base = width - RIGHT, height - BOTTOM
        self.parts: list[str] = []

    @staticmethod
    def _span(limits: Point, log: bool) -> Point:
        low, high = (math.log10(v) for v in limits) if log else limits
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def at_x(self, value: float) -> float:
        value = math.log10(value) if self.log_x else value
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - LEFT)

    def at_y(self, value: float) -> float:
        value = math.log10(value) if self.log_y else value
        return self.base - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.base - TOP)

    def _ticks(self, span: Point, log: bool, count: int) -> list[float]:
        if not log:
            return _nice_ticks(*span, count)
        powers = range(math.ceil(span[0] - 1e-9), math.floor(span[1] + 1e-9) + 1)
        if len(powers) <= 2:
            return [m * 10.0**p for p in range(math.floor(span[0]), math.ceil(span[1])) for m in (1, 2, 5)
                    if span[0] - 1e-9 <= math.log10(m) + p <= span[1] + 1e-9]  # fmt: skip
        step = max(1, math.ceil(len(powers) / (count + 1)))
        return [10.0**p for p in powers[::step]]

    def text(self, kind: str, text: str, place: str) -> None:
        self.parts.append(f'<text class="{kind}" {place}>{escape(text)}</text>')

    def frame(self, x_label: str, y_label: str = "", *, x_ticks: Sequence[float] | None = None) -> None:
        for tick in self._ticks(self.y, self.log_y, 4):
            y = self.at_y(tick)
            self.parts.append(f'<line class="grid" x1="{LEFT}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.text("tick", _label(tick), f'x="{LEFT - 6}" y="{y + 3:.1f}" text-anchor="end"')
        self.parts.append(f'<line class="axis" x1="{LEFT}" x2="{self.right}" y1="{self.base}" y2="{self.base}"/>')
        for tick in x_ticks or self._ticks(self.x, self.log_x, max(2, self.width // 90)):
            self.text("tick", _label(tick), f'x="{self.at_x(tick):.1f}" y="{self.base + 14}" text-anchor="middle"')
        if x_label:
            self.text("name", x_label, f'x="{(LEFT + self.right) / 2}" y="{self.height - 4}" text-anchor="middle"')
        if y_label:
            self.text("name", y_label, f'x="{LEFT}" y="{TOP - 1}" dx="-40"')

    def line(self, points: Sequence[Point], number: int, name: str) -> None:
        if len(points) == 1:
            self.dot(points[0], f"dot s{number % 4}", 2.5)
            return
        path = " ".join(f"{self.at_x(x):.1f},{self.at_y(y):.1f}" for x, y in points)
        self.parts.append(
            f'<polyline class="line s{number % 4}" points="{path}"><title>{escape(name)}</title></polyline>'
        )

    def dot(self, point: Point, kind: str, radius: float, tip: str = "") -> None:
        x, y = self.at_x(point[0]), self.at_y(point[1])
        end = f"><title>{escape(tip)}</title></circle>" if tip else "/>"
        self.parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"{end}')

    def svg(self, title: str) -> str:
        title = escape(title)
        head = f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{title}"><title>{title}</title>'
        return f"{head}{''.join(self.parts)}</svg>"


def histogram_chart(
    counts: Sequence[int], low: float, high: float, *, x_label: str, marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Bars, with named vertical marks (mean, median)."""
    chart = Chart(x=(low, high), y=(0, max(counts) * 1.12))
    chart.frame(x_label)
    edges = [low + i * (high - low) / len(counts) for i in range(len(counts) + 1)]
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            x, x2, y = chart.at_x(left), chart.at_x(right), chart.at_y(count)
            chart.parts.append(
                f'<rect class="bar" x="{x + 0.5:.1f}" y="{y:.1f}" width="{max(0.5, x2 - x - 1):.1f}" '
                f'height="{chart.base - y:.1f}"><title>{left:.2f} to {right:.2f}: {count:,}</title></rect>'
            )
    for value, name in marks:
        x = chart.at_x(value)
        anchor, dx = ("end", -4) if x > chart.width * 0.75 else ("start", 4)
        chart.parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{chart.base}"/>')
        chart.text("note", name, f'x="{x:.1f}" dx="{dx}" y="{TOP + 9}" text-anchor="{anchor}"')
    return chart.svg(f"distribution of {x_label}")


def rank_chart(
    series: Sequence[tuple[str, Sequence[Point]]], *, uniform: float | None, x_label: str, y_label: str
) -> str:
    """Sorted counts on log-log axes; `uniform` is the level that equal use would have."""
    xs, ys = zip(*(p for _, line in series for p in line), strict=True)
    levels = [*ys, uniform] if uniform else ys
    limits = (max(0.5, min(levels) * 0.8), max(levels) * 1.25)
    chart = Chart(x=(1, max(2, *xs)), y=limits, log_x=True, log_y=True)
    chart.frame(x_label, y_label)
    if uniform:
        y = chart.at_y(uniform)
        chart.parts.append(f'<line class="mark" x1="{LEFT}" x2="{chart.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        chart.text("note", "equal use", f'x="{LEFT + 4}" y="{y - 4:.1f}"')
    for number, (name, line) in enumerate(series):
        chart.line(line, number, name)
    return chart.svg(f"{y_label} by {x_label}")


def _with_margin(values: Sequence[float]) -> Point:
    margin = (max(values) - min(values)) * 0.06
    return min(values) - margin, max(values) + margin


def curve_chart(series: Sequence[tuple[str, Sequence[Point]]], *, x_label: str) -> str:
    """One small multiple: train and validation of one quantity over updates."""
    xs, ys = zip(*(p for _, line in series for p in line), strict=True)
    chart = Chart(x=(min(xs), max(xs)), y=_with_margin(ys), width=300, height=150)
    chart.frame(x_label)
    for name, line in series:
        chart.line(line, 0 if name == "train" else 1, name)
    return chart.svg(", ".join(name for name, _ in series))


def length_chart(series: Sequence[tuple[str, Sequence[Point]]], *, ticks: Sequence[float], x_label: str) -> str:
    """One metric over tokens, on a scale of doublings: the tokenizer, and codecs where their files are as small."""
    xs, ys = zip(*(p for _, line in series for p in line), strict=True)
    limits = (min(*xs, *ticks), max(*xs, *ticks))
    chart = Chart(x=limits, y=_with_margin(ys), log_x=True)
    doublings = range(math.ceil(math.log2(limits[0])), math.floor(math.log2(limits[1])) + 1)
    chart.frame(x_label, x_ticks=[2.0**i for i in doublings[:: 1 + len(doublings) // 12]])
    for number, (name, line) in enumerate(series):
        if len(line) > 1:
            chart.line(line, number, name)
        for x, y in line:
            tip = f"{name}: {_label(round(y, 4))} at {_label(round(x, 1))} tokens"
            chart.dot((x, y), f"point s{number % 4}", 2.8, tip)
    return chart.svg(f"{', '.join(name for name, _ in series)} by {x_label}")
