"""The report's figures: what the students reach, how they learn, what each teacher does."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.reporting.groups import VariantGroup, group_variants, teachers_in_order
from experiments.reporting.plotting import (
    COLOURS,
    DISTILLED,
    INK,
    TEACHER,
    Drawing,
    draw_svg,
    horizontal_bars,
    name_rows,
    svg_file,
)
from experiments.reporting.results import Results, VariantResult
from experiments.reporting.wording import ALPHA, ONE_SEED, decimals, seed_count, unbroken
from prmkd_jax.common.files import write_text
from prmkd_jax.evaluate.metrics import KEY_METRICS, METRICS, SELECTION_METRIC

KINDS = ("recall-at-10", "ndcg-at-10", "improvement", "learning", "exclusion", "weights")
"""What a group's figures show: the ends of their names."""


def drawings(group: VariantGroup, results: Results) -> list[Drawing]:
    """All figures that the results of one group have the data for."""
    found = [_test_metric(group, results, metric) for metric in KEY_METRICS]
    if group.compared and group.pair is None:
        return found
    if group.pair is not None:
        found.append(_improvement(group, group.pair))
    found.append(_learning(group))
    labels = teacher_labels(results)
    diagnostics = teacher_diagnostics(group.variants[-1], labels)
    # Of two teachers each disagrees as much as the other: the rule then never decides.
    if len(diagnostics) > 2:
        found.append(_exclusion(group, diagnostics, labels))
    if len(diagnostics) > 1:
        found.append(_weights(group, diagnostics, labels))
    return found


def teacher_labels(results: Results) -> dict[str, str]:
    """The teachers' display names."""
    return {name: teacher["label"] for name, teacher in teachers_in_order(results).items()}


def teacher_diagnostics(
    variant: VariantResult, order: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Each teacher's part in a distillation, averaged over all epochs of all seeds.

    Args:
        variant: a variant of the results.
        order: names of all teachers, in the order wanted.

    Returns:
        Teacher → `assigned` (its weight by validation metric) and the quantities of the
        training history: `excluded`, `weight` (after exclusion), `entropy`, `agreement`,
        `kl`; nothing where there was no distillation.
    """
    history = [record for seed in variant["seeds"] for record in seed["history"]]
    records = [record["teachers"] for record in history if "teachers" in record]
    weights = variant["teacher_weights"]
    # Some methods measure no teacher.
    if weights is None or len(records) < len(history):
        return {}
    names = [name for name in order if name in weights]
    return {
        name: {"assigned": float(weights[name])}
        | {
            key: float(np.mean([record[name][key] for record in records]))
            for key in records[0][name]
        }
        for name in names
    }


def figure_names(group: str) -> list[str]:
    """The files that `save_figures` may write for a group."""
    return [f"{group}-{kind}.svg" for kind in KINDS]


def save_figures(folder: Path, results: Results) -> list[Path]:
    """Writes every figure as an SVG file into the folder, which is made if missing.

    Returns:
        The files.
    """
    paths = []
    for group in group_variants(results):
        for drawing in drawings(group, results):
            paths.append(folder / f"{drawing.name}.svg")
            write_text(paths[-1], svg_file(drawing.svg))
    return paths


def _test_metric(group: VariantGroup, results: Results, metric: str) -> Drawing:
    bars = [
        (teacher["label"], teacher["test"][metric], 0.0, TEACHER)
        for teacher in teachers_in_order(results).values()
    ]
    for variant in group.variants:
        spread = (variant["test_std"] or {}).get(metric, 0.0)
        bars.append((variant["label"], variant["test"][metric], spread, COLOURS[variant["kind"]]))
    labels, values, errors, colours = zip(*bars, strict=True)

    def draw(axes: Axes) -> None:
        horizontal_bars(axes, labels, values, [*map(decimals, values)], colours, errors)
        axes.set_xlabel(f"{metric}, test set")

    seeds = seed_count(group.variants)
    shown = ", ".join(f"{label} {decimals(value)}" for label, value, *_ in bars)
    whiskers = f" Students: mean of {seeds}, whiskers ±1 standard deviation."
    return Drawing(
        name=f"{group.name}-{metric.replace('@', '-at-').lower()}",
        title=f"{metric} on the test set",
        note="All items ranked, all users." + (whiskers if seeds != ONE_SEED else ""),
        alt=f"Bar chart of {metric} on the test set: {shown}.",
        svg=draw_svg(0.9 + 0.34 * len(bars), draw),
    )


def _improvement(group: VariantGroup, other: VariantResult) -> Drawing:
    name = group.reference["label"]
    against = other["against"] or {}
    gains = {metric: against[metric]["change"] or 0.0 for metric in METRICS}
    texts = [unbroken(against[metric]["change"]) for metric in METRICS]
    known = [against[metric].get("interval") for metric in METRICS]
    intervals = [(100 * ends[0], 100 * ends[1]) if ends else None for ends in known]
    significant = [against[metric]["t_p_holm"] < ALPHA for metric in METRICS]
    method = other["method"]["label"] if other["method"] else other["label"]

    def draw(axes: Axes) -> None:
        values = [100 * gain for gain in gains.values()]
        colours = [DISTILLED] * len(gains)
        horizontal_bars(
            axes, [*gains], values, texts, colours, filled=significant, intervals=intervals
        )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(f"change against {name}, %")

    shown = ", ".join(
        f"{metric} {text}" + ("" if sure else " (not significant)")
        for metric, text, sure in zip(gains, texts, significant, strict=True)
    )
    return Drawing(
        name=f"{group.name}-improvement",
        title="What distillation changes",
        note=f"{method} against {name}, test set. Hollow: p ≥ {ALPHA:g}, paired t-test."
        + (" Whiskers: 95 % intervals over users." if any(intervals) else ""),
        alt=f"Bar chart of {method}’s change against {name}: {shown}.",
        svg=draw_svg(0.8 + 0.3 * len(gains), draw),
    )


def _learning(group: VariantGroup) -> Drawing:
    curves = {
        variant["name"]: [
            np.array([record["validation"][SELECTION_METRIC] for record in seed["history"]])
            for seed in variant["seeds"]
        ]
        for variant in group.variants
    }

    def draw(axes: Axes) -> None:
        for variant in group.variants:
            _draw_curves(axes, variant, curves[variant["name"]])
        axes.set_xlabel("epoch")
        axes.set_ylabel("NDCG@10, validation")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")

    best = {name: float(np.mean([curve.max() for curve in runs])) for name, runs in curves.items()}
    seeds = seed_count(group.variants)
    thin = f"Thin: {seeds}. Thick: their mean, as far as all run. " if seeds != ONE_SEED else ""
    shown = ", ".join(
        f"{variant['label']} {decimals(best[variant['name']])}" for variant in group.variants
    )
    return Drawing(
        name=f"{group.name}-learning",
        title="Learning curves",
        note=f"{thin}Dots: the epochs kept, the best on validation.",
        alt=f"Line chart of validation NDCG@10 over epochs. Best, mean of seeds: {shown}.",
        svg=draw_svg(2.9, draw),
    )


def _draw_curves(axes: Axes, variant: VariantResult, curves: list[np.ndarray]) -> None:
    """One line a seed, a dot at the epoch that was kept, and the mean of all seeds."""
    colour = COLOURS[variant["kind"]]
    for seed, curve in zip(variant["seeds"], curves, strict=True):
        best = seed["best_epoch"]
        axes.plot(1 + np.arange(len(curve)), curve, color=colour, lw=0.7, alpha=0.6)
        if best:  # 0 is the start, which has no epoch
            axes.plot(best, curve[best - 1], "o", color=colour, ms=3.5)
    shared = min(map(len, curves))
    mean = np.mean([curve[:shared] for curve in curves], axis=0)
    axes.plot(1 + np.arange(shared), mean, color=colour, lw=2, label=variant["label"])


def _exclusion(
    group: VariantGroup, diagnostics: Mapping[str, Mapping[str, float]], names: Mapping[str, str]
) -> Drawing:
    labels = [names[name] for name in diagnostics]
    shares = [100 * teacher["excluded"] for teacher in diagnostics.values()]
    texts = [f"{share:.1f} %" for share in shares]

    def draw(axes: Axes) -> None:
        horizontal_bars(axes, labels, shares, texts, [TEACHER] * len(labels))
        axes.set_xlabel("share of training instances, %")

    shown = ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))
    return Drawing(
        name=f"{group.name}-exclusion",
        title="Teachers excluded for disagreeing",
        note=f"Mean over epochs and seeds. All kept: {100 - sum(shares):.1f} % of instances.",
        alt=f"Bar chart of how often each teacher was excluded: {shown}.",
        svg=draw_svg(0.9 + 0.34 * len(labels), draw),
    )


def _weights(
    group: VariantGroup, diagnostics: Mapping[str, Mapping[str, float]], names: Mapping[str, str]
) -> Drawing:
    labels = [names[name] for name in diagnostics]
    assigned = [teacher["assigned"] for teacher in diagnostics.values()]
    after = [teacher["weight"] for teacher in diagnostics.values()]

    def draw(axes: Axes) -> None:
        places = np.arange(len(labels))
        look: dict[str, Any] = {"height": 0.3, "color": TEACHER, "edgecolor": TEACHER}
        hollow = axes.barh(places - 0.19, assigned, fill=False, label="assigned", **look)
        filled = axes.barh(places + 0.19, after, label="after exclusion", **look)
        for bars in (hollow, filled):
            axes.bar_label(bars, fmt="%.3f", padding=4)
        name_rows(axes, labels)
        axes.set_xlim(0, 1.2 * max(*assigned, *after))
        axes.set_xlabel("weight, mean over training instances")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)

    shown = ", ".join(
        f"{label} {before:.3f} assigned and {later:.3f} after exclusion"
        for label, before, later in zip(labels, assigned, after, strict=True)
    )
    return Drawing(
        name=f"{group.name}-weights",
        title="Teachers’ weights",
        note="Assigned by validation NDCG@10; what an excluded teacher loses goes to the others.",
        alt=f"Bar chart of the teachers’ weights: {shown}.",
        svg=draw_svg(1.3 + 0.42 * len(labels), draw),
    )
