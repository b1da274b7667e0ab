"""All variants of a study as bars, and their differences with intervals."""

from matplotlib.axes import Axes

from experiments.reporting.plotting import (
    COLOURS,
    INK,
    Sketch,
    explain_x,
    horizontal_bars,
    name_rows,
)
from experiments.reporting.results import Comparison, Results
from experiments.reporting.wording import ALPHA, decimals, percent
from prmkd_jax.evaluate.metrics import KEY_METRIC


def study_figure(results: Results) -> Sketch:
    """The variants' test NDCG@10 as bars; hollow ones may differ by chance."""
    rows = results["variants"]
    values = [row["test"][KEY_METRIC] for row in rows]
    spreads = [(row["test_std"] or {}).get(KEY_METRIC, 0.0) for row in rows]
    sure = [not row["against"] or row["against"][KEY_METRIC]["t_p_holm"] < ALPHA for row in rows]
    words = [f"{KEY_METRIC}, test set"]
    if any(spreads):
        words.append("whiskers: ±1 standard deviation over seeds")
    if not all(sure):
        words.append(f"hollow: p ≥ {ALPHA:g} against {results['study']['versus']}")

    def draw(axes: Axes) -> None:
        horizontal_bars(
            axes,
            [row["label"] for row in rows],
            values,
            [*map(decimals, values)],
            [COLOURS[row["kind"]] for row in rows],
            spreads,
            filled=sure,
        )
        explain_x(axes, words)

    shown = [f"{row['label']} {decimals(value)}" for row, value in zip(rows, values, strict=True)]
    alt = f"Bar chart of {KEY_METRIC} on the test set: {', '.join(shown)}."
    return Sketch(0.9 + 0.34 * len(rows) + 0.2 * (len(words) - 1), draw, alt)


def effects_figure(results: Results) -> Sketch:
    """Each variant's change of test NDCG@10 as a point in its interval over users.

    A change from 0, which is none in percent, has no point.
    """
    found = [
        (row["label"], against["change"], against)
        for row in results["variants"]
        if row["against"] is not None
        for against in [row["against"][KEY_METRIC]]
    ]
    colours = [COLOURS[row["kind"]] for row in results["variants"] if row["against"]]
    words = [f"change of {KEY_METRIC} against {results['study']['versus']}, %"]
    words.append("lines: 95 % intervals over resampled users, seeds as they are")
    if any(against["t_p_holm"] >= ALPHA for *_, against in found):
        words.append(f"hollow: p ≥ {ALPHA:g}, Holm-corrected")

    def draw(axes: Axes) -> None:
        for place, ((_, change, against), colour) in enumerate(zip(found, colours, strict=True)):
            interval = against.get("interval")
            if interval:
                ends = [100 * end for end in interval]
                axes.plot(ends, (place, place), color=colour, lw=2, solid_capstyle="butt")
            face = colour if against["t_p_holm"] < ALPHA else "white"
            if change is not None:
                axes.plot(100 * change, place, "o", color=colour, mfc=face, ms=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        name_rows(axes, [label for label, *_ in found])
        axes.set_ylim(max(1, len(found)) - 0.5, -0.5)
        explain_x(axes, words if found else ["nothing is compared"])

    shown = [f"{label} {_with_interval(against)}" for label, _, against in found]
    versus = results["study"]["versus"]
    alt = f"Points in their intervals, change of {KEY_METRIC} against {versus}: {', '.join(shown)}."
    return Sketch(0.9 + 0.3 * max(1, len(found)) + 0.2 * (len(words) - 1), draw, alt)


def _with_interval(against: Comparison) -> str:
    ends = against.get("interval")
    change = percent(against["change"])
    return f"{change} ({percent(ends[0])} to {percent(ends[1])})" if ends else change
