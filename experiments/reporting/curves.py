"""How a metric changes with one setting: the paper's Fig. 5."""

from matplotlib.axes import Axes

from experiments.reporting.plotting import BASE, DISTILLED, Sketch
from experiments.reporting.results import Results, VariantResult
from experiments.reporting.wording import decimals
from prmkd_jax.evaluate.metrics import KEY_METRIC

SIGNS = {"temperature": "temperature τ", "distill_weight": "weight λ", "hidden_size": "width D"}
"""Settings that have a curve → the axis' name."""


def curve(results: Results, flag: str) -> Sketch:
    """Test NDCG@10 over the values of one setting.

    Args:
        results: the results of variants called `<flag>=<value>`, and of plain ones called
            `base-<flag>=<value>`; the distilled one, if it is there, has the value that the
            settings give.
        flag: name of the setting.
    """
    value = float(results["settings"][flag])
    given = [(value, one) for one in results["variants"] if one["kind"] == "distilled"]
    taught = [*given, *_points(results, f"{flag}=")]
    lines = [("PRM-KD", taught, DISTILLED), ("alone", _points(results, f"base-{flag}="), BASE)]

    def draw(axes: Axes) -> None:
        for label, points, colour in lines:
            points = sorted(points, key=lambda point: point[0])
            if not points:
                continue
            values = [value for value, _ in points]
            means = [variant["test"][KEY_METRIC] for _, variant in points]
            spreads = [(variant["test_std"] or {}).get(KEY_METRIC, 0.0) for _, variant in points]
            axes.errorbar(values, means, spreads, color=colour, marker="o", ms=4, label=label)
        axes.set_xscale("log")
        ticks = sorted({value for _, points, _ in lines for value, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.minorticks_off()
        axes.set_xlabel(SIGNS[flag])
        axes.set_ylabel(f"{KEY_METRIC}, test set")
        axes.legend(loc="best")

    shown = [f"{label} {_in_words(points)}" for label, points, _ in lines if points]
    alt = f"{KEY_METRIC} on the test set by the {SIGNS[flag]}: {'; '.join(shown)}."
    return Sketch(2.6, draw, alt)


def _in_words(points: list[tuple[float, VariantResult]]) -> str:
    """The values of a curve, from the left to the right."""
    ordered = sorted(points, key=lambda point: point[0])
    return ", ".join(
        f"{decimals(variant['test'][KEY_METRIC])} at {value:g}" for value, variant in ordered
    )


def _points(results: Results, prefix: str) -> list[tuple[float, VariantResult]]:
    return [
        (float(variant["name"].removeprefix(prefix)), variant)
        for variant in results["variants"]
        if variant["name"].startswith(prefix)
    ]
