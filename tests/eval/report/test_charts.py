"""Charts put every number where its scale says, with round ticks; read back from the shapes that were drawn."""

import math
from fractions import Fraction
from xml.etree import ElementTree

import pytest

from imtok.eval.report.charts import Chart, curve_chart, histogram_chart, length_chart, rank_chart

LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 34  # margins around the plot, for labels


class Drawn:
    """The shapes of a chart, by tag and class."""

    def __init__(self, chart: Chart | str) -> None:
        self.root = ElementTree.fromstring(chart if isinstance(chart, str) else chart.svg("t"))
        _, _, self.width, self.height = map(int, self.root.get("viewBox").split())

    def of(self, tag: str, kind: str) -> list[ElementTree.Element]:
        return [e for e in self.root.iter(tag) if e.get("class") == kind]

    def ticks(self, axis: str) -> dict[str, float]:
        """{label: place} along an axis."""
        anchor = {"x": "middle", "y": "end"}[axis]
        return {e.text: float(e.get(axis)) for e in self.of("text", "tick") if e.get("text-anchor") == anchor}

    def x(self, value: float, low: float, high: float) -> float:
        return LEFT + (value - low) / (high - low) * (self.width - RIGHT - LEFT)

    def y(self, value: float, low: float, high: float) -> float:
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - BOTTOM - TOP)

    def lines(self) -> dict[str, list[tuple[float, float]]]:
        return {
            e.find("title").text: [tuple(map(float, p.split(","))) for p in e.get("points").split()]
            for e in self.root.iter("polyline")
        }


def near(points: list[tuple[float, float]]) -> list:
    return [pytest.approx(p, abs=0.051) for p in points]


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """Multiples in range of the smallest 1, 2 or 5 times a power of ten that gives no more than `count` steps."""
    low, high = Fraction(str(low)), Fraction(str(high))
    steps = [s * Fraction(10) ** p for p in range(-9, 10) for s in (1, 2, 5)]
    step = next(s for s in steps if s >= (high - low) / count)
    return [float(i * step) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


@pytest.mark.parametrize(
    "limits",
    [(0, 4), (0, 8), (0, 20), (0, 24), (0, 32), (0.1, 0.3), (1.05, 4.95), (0.95, 5.05), (-3, 1), (16.1, 23.4)],
)
def test_linear_ticks_are_round_and_inside(limits: tuple[float, float]) -> None:
    chart = Chart(x=(0, 1), y=limits)
    chart.frame("")
    drawn = Drawn(chart)
    expected = round_ticks(*limits, 4)
    assert [float(label) for label in drawn.ticks("y")] == pytest.approx(expected)
    grid = [float(e.get("y1")) for e in drawn.of("line", "grid")]
    assert grid == pytest.approx([drawn.y(tick, *limits) for tick in expected], abs=0.051)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1, 1000), [1, 10, 100, 1000]),
        ((1, 1e4), [1, 10, 100, 1000, 1e4]),
        ((1, 1e5), [1, 100, 1e4]),
        ((1, 1e6), [1, 100, 1e4, 1e6]),
        ((1, 100), [1, 10, 100]),
        ((1.2, 8500), [10, 100, 1000]),
        ((2, 5), [2, 5]),
        ((2, 50), [2, 5, 10, 20, 50]),
        ((2.2, 45), [5, 10, 20]),
        ((0.9, 11), [1, 2, 5, 10]),
        ((0.002, 0.006), [0.002, 0.005]),
    ],
)
def test_logarithmic_ticks_are_powers_or_between_them(limits: tuple[float, float], expected: list[float]) -> None:
    chart = Chart(x=(0, 1), y=limits, log_y=True)
    chart.frame("")
    drawn = Drawn(chart)
    assert [float(label.replace(",", "")) for label in drawn.ticks("y")] == pytest.approx(expected)
    logs = [math.log10(v) for v in limits]
    places = [drawn.y(math.log10(tick), *logs) for tick in expected]
    assert [float(e.get("y1")) for e in drawn.of("line", "grid")] == pytest.approx(places, abs=0.051)


def test_a_wide_chart_has_more_ticks_along_x() -> None:
    for width, high, count in ((100, 12, 2), (449, 5, 4), (450, 5, 5), (300, 9, 3)):
        chart = Chart(x=(0, high), y=(0, 1), width=width)
        chart.frame("")
        assert [float(label) for label in Drawn(chart).ticks("x")] == round_ticks(0, high, count)


def test_tick_labels_are_short() -> None:
    said = {0.0: "0", 9999.0: "9,999", 1e4: "1e4", 2e4: "2e4", 5e-4: "5e-4", 1e-3: "0.001", -2e4: "-2e4", -5.0: "-5"}
    chart = Chart(x=(-2e4, 2e4), y=(0, 1))
    chart.frame("", x_ticks=list(said))
    drawn = Drawn(chart).ticks("x")
    assert list(drawn) == list(said.values())
    assert drawn["0"] == pytest.approx(LEFT + (460 - LEFT - RIGHT) / 2, abs=0.051)


def test_one_value_stands_in_the_middle_of_its_scale() -> None:
    chart = Chart(x=(3, 3), y=(7, 7))
    assert (chart.at_x(2.5), chart.at_x(3.5)) == (LEFT, 460 - RIGHT)
    assert (chart.at_y(6.5), chart.at_y(7.5)) == (220 - BOTTOM, TOP)


def test_labels_stand_beside_what_they_name() -> None:
    """Distances in pixels: changing one is a choice about the look, to be made on purpose."""
    chart = Chart(x=(0, 1), y=(0, 1))
    chart.frame("along", "up")
    drawn = Drawn(chart)
    base = 220 - BOTTOM
    for line in drawn.of("line", "grid") + drawn.of("line", "axis"):
        assert (float(line.get("x1")), float(line.get("x2"))) == (LEFT, 450) and line.get("y1") == line.get("y2")
    assert [float(e.get("y1")) for e in drawn.of("line", "axis")] == [base]
    for label in drawn.of("text", "tick"):
        if label.get("text-anchor") == "end":
            place = float(label.get("x")), float(label.get("y"))
            assert place == pytest.approx((LEFT - 6, drawn.y(float(label.text), 0, 1) + 3), abs=0.051)
        else:
            assert float(label.get("y")) == base + 14
    x_name, y_name = drawn.of("text", "name")
    assert (x_name.text, float(x_name.get("x")), float(x_name.get("y"))) == ("along", (LEFT + 450) / 2, 220 - 4)
    assert (y_name.text, float(y_name.get("x")), float(y_name.get("y")), float(y_name.get("dx"))) == (
        "up", LEFT, TOP - 1, -40)  # fmt: skip
    chart = Chart(x=(0, 1), y=(0, 1))
    chart.frame("")
    assert not Drawn(chart).of("text", "name")


def test_bars_are_as_high_as_their_counts() -> None:
    drawn = Drawn(histogram_chart([1, 0, 4], 0, 3, x_label="dB", marks=[(2.2, "left"), (2.24, "right")]))
    bars = drawn.of("rect", "bar")
    assert [bar.find("title").text for bar in bars] == ["0.00 to 1.00: 1", "2.00 to 3.00: 4"]
    for bar, count, left in zip(bars, (1, 4), (0, 2), strict=True):
        x, y, width, height = (float(bar.get(name)) for name in ("x", "y", "width", "height"))
        assert y == pytest.approx(drawn.y(count, 0, 4 * 1.12), abs=0.051)
        assert y + height == pytest.approx(220 - BOTTOM, abs=0.11)
        assert x - 0.5 == pytest.approx(drawn.x(left, 0, 3), abs=0.051)
        assert x + width + 0.5 == pytest.approx(drawn.x(left + 1, 0, 3), abs=0.11)
    for line, value in zip(drawn.of("line", "mark"), (2.2, 2.24), strict=True):
        assert float(line.get("x1")) == float(line.get("x2")) == pytest.approx(drawn.x(value, 0, 3), abs=0.051)
        assert (float(line.get("y1")), float(line.get("y2"))) == (TOP, 220 - BOTTOM)
    # A name in the last quarter stands left of its mark: it would leave the picture.
    assert [(e.text, e.get("text-anchor"), e.get("dx"), e.get("y")) for e in drawn.of("text", "note")] == [
        ("left", "start", "4", "19"),
        ("right", "end", "-4", "19"),
    ]
    many = Drawn(histogram_chart([2] * 1000, 0, 1, x_label="dB")).of("rect", "bar")
    assert len(many) == 1000 and {bar.get("width") for bar in many} == {"0.5"}, "never too thin to be seen"


def test_counts_by_rank_on_two_logarithmic_scales() -> None:
    points = [(1, 100), (10, 10), (100, 1)]
    drawn = Drawn(rank_chart([("main", points)], uniform=20, x_label="rank", y_label="times"))
    low, high = math.log10(0.8), math.log10(125)
    places = [(drawn.x(math.log10(x), 0, 2), drawn.y(math.log10(y), low, high)) for x, y in points]
    assert drawn.lines()["main"] == near(places)
    [mark], [note] = drawn.of("line", "mark"), drawn.of("text", "note")
    level = drawn.y(math.log10(20), low, high)
    assert float(mark.get("y1")) == float(mark.get("y2")) == pytest.approx(level, abs=0.051)
    assert (float(mark.get("x1")), float(mark.get("x2"))) == (LEFT, 450)
    assert (float(note.get("x")), float(note.get("y"))) == pytest.approx((LEFT + 4, level - 4), abs=0.051)
    assert {e.text for e in drawn.of("text", "name")} == {"rank", "times"}


def test_counts_by_rank_without_a_level_and_of_one_entry() -> None:
    drawn = Drawn(rank_chart([("main", [(1, 4), (2, 0.55)])], uniform=None, x_label="rank", y_label="times"))
    assert not drawn.of("line", "mark")
    low, high = math.log10(0.5), math.log10(5)  # never below half a use
    assert drawn.lines()["main"][1] == pytest.approx((450, drawn.y(math.log10(0.55), low, high)), abs=0.051)
    for uniform, bottom, top in ((None, 40, 62.5), (500, 40, 625), (5, 4, 62.5)):
        one = Drawn(rank_chart([("main", [(1, 50)])], uniform=uniform, x_label="rank", y_label="times"))
        [dot] = one.of("circle", "dot s0")
        place = LEFT, one.y(math.log10(50), math.log10(bottom), math.log10(top))
        assert (float(dot.get("cx")), float(dot.get("cy"))) == pytest.approx(place, abs=0.051)
        assert dot.get("r") == "2.5"
        assert one.ticks("x") == {"1": LEFT, "2": 450}


def test_train_and_validation_keep_their_colours() -> None:
    series = [("train", [(0, 0.0), (50, 100.0)]), ("val", [(10, 40.0), (30, 60.0)])]
    drawn = Drawn(curve_chart(series, x_label="updates"))
    assert (drawn.width, drawn.height) == (300, 150)
    for name, points in series:
        assert drawn.lines()[name] == near([(drawn.x(x, 0, 50), drawn.y(y, -6, 106)) for x, y in points])
    kinds = {e.find("title").text: e.get("class") for e in drawn.root.iter("polyline")}
    assert kinds == {"train": "line s0", "val": "line s1"}
    assert Drawn(curve_chart(series[1:], x_label="u")).of("polyline", "line s1"), "alone too"


def test_lengths_stand_at_doublings() -> None:
    drawn = Drawn(length_chart([("ours", [(1, 10.0), (8, 20.0), (64, 30.0)])], ticks=[1, 8, 64], x_label="tokens"))
    places = [(drawn.x(i, 0, 6), drawn.y(y, 8.8, 31.2)) for i, y in ((0, 10), (3, 20), (6, 30))]
    assert drawn.lines()["ours"] == near(places)
    dots = drawn.of("circle", "point s0")
    assert [(float(d.get("cx")), float(d.get("cy"))) for d in dots] == near(places)
    assert {d.get("r") for d in dots} == {"2.8"}
    assert [d.find("title").text for d in dots][1] == "ours: 20 at 8 tokens"
    assert list(drawn.ticks("x")) == ["1", "2", "4", "8", "16", "32", "64"]


@pytest.mark.parametrize(
    ("limits", "labels"),
    [
        ((1, 1024), [2**i for i in range(11)]),
        ((1, 2048), [4**i for i in range(6)]),
        ((3, 50), [4, 8, 16, 32]),
        ((4, 16), [4, 8, 16]),
    ],
)
def test_labels_of_lengths_do_not_crowd(limits: tuple[int, int], labels: list[int]) -> None:
    drawn = Drawn(length_chart([("ours", [(5, 1.0)])], ticks=limits, x_label="tokens"))
    assert [float(label.replace(",", "")) for label in drawn.ticks("x")] == labels


def test_the_fifth_series_takes_the_first_colour_and_one_point_is_no_line() -> None:
    series = [(f"n{i}", [(1, float(i)), (2.04, i + 0.123456)]) for i in range(5)] + [("single", [(4, 2.0)])]
    drawn = Drawn(length_chart(series, ticks=[1, 4], x_label="tokens"))
    kinds = [e.get("class") for e in drawn.root.iter("polyline")]
    assert kinds == ["line s0", "line s1", "line s2", "line s3", "line s0"]
    assert [len(drawn.of("circle", f"point s{i}")) for i in range(4)] == [4, 3, 2, 2]
    assert len(list(drawn.root.iter("circle"))) == 11
    assert drawn.of("circle", "point s1")[1].find("title").text == "n1: 1.1235 at 2 tokens"
    one = Chart(x=(0, 1), y=(0, 1))
    one.line([(0.5, 0.5)], 5, "fifth")
    assert len(Drawn(one).of("circle", "dot s1")) == 1
