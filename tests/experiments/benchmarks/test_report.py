"""What a suite leaves: rows, curves, exponents, by hand."""

import pytest

from experiments.benchmarks import timing
from experiments.benchmarks.report import curves, exponents, figure, table
from experiments.benchmarks.timing import BenchRow, once, repeated, seconds_of


def rows():
    """A curve over items, and what is none."""
    grown = [seconds_of("step", [n * 1e-3] * 10, items=n, width=64) for n in (10, 100, 1000)]
    return [*grown, once("alone", 2.0, "s", items=7), once("operations", 5.0, "GFLOP", items=7)]


def test_a_curve_is_what_one_size_tells_apart():
    """It has three points or more, in seconds, over one size that varies alone."""
    assert curves(rows()) == {("step", "items"): [(10, 0.01), (100, 0.1), (1000, 1.0)]}
    assert curves(rows()[1:]) == {}
    two = [seconds_of("step", [1.0], items=n, width=w) for n, w in ((1, 1), (2, 2), (3, 3))]
    assert curves(two) == {}


def test_what_is_measured_over_several_sizes_has_a_curve_for_each():
    """Steps over items and steps over users have two curves, despite their one name."""
    users = [seconds_of("step", [0.5], users=n) for n in (1, 10, 100)]
    assert list(curves([*rows(), *users])) == [("step", "items"), ("step", "users")]
    drawn = figure([*rows(), *users])
    assert "step (items^1.00)" in drawn
    assert "step (users^" in drawn


def test_exponents_are_those_of_the_curves():
    """A time that is proportional to its size has exponent 1, and a constant one 0."""
    same = [seconds_of("flat", [0.5], users=n) for n in (1, 10, 100)]
    found = exponents([*rows(), *same])
    assert found == pytest.approx({"step, items": 1.0, "flat, users": 0.0}, abs=1e-9)


def test_quartiles_are_of_the_repetitions_and_warming_up_does_not_count(monkeypatch):
    """The first call, which may compile, is kept apart, and the value is the median."""
    seconds = iter([5, 1, 2, 3, 4, 100])
    clock = [0.0]

    def call():
        clock[0] += next(seconds)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    first, counted = repeated(call, repeats=5)
    assert (first, counted) == ([5], [1, 2, 3, 4, 100])
    assert seconds_of("call", counted) == BenchRow("call", 3.0, "s", 2.0, 4.0, 5, {})


def test_the_table_tells_size_spread_unit_and_exponent():
    """Every figure has its unit, and what was counted once has no spread."""
    lines = table(rows()).splitlines()
    assert "| step | 1,000 items, 64 width | 1 | 1 – 1 | s | 10 |" in lines
    assert "| operations | 7 items | 5 |  | GFLOP | 1 |" in lines
    assert "| step, items | 1.00 |" in lines


def test_the_figure_has_curves_or_else_a_bar_a_row():
    """Where there is no curve there are bars, so the figure is never empty."""
    assert "step (items^1.00)" in figure(rows())
    bars = figure([*rows()[3:], once("alone", 3.0, "s", items=8)])
    assert "alone, 7 items" in bars
    assert "alone, 7 items" not in figure(rows()[3:])  # one name needs no size
    assert "operations" not in bars
