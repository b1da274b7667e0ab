"""The report's figures: what the students reach, how they learn, what each teacher does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.reporting.plotting import (
    COLOURS,
    INK,
    PRMKD,
    TEACHER,
    Drawing,
    draw_svg,
    horizontal_bars,
    name_rows,
)
from experiments.reporting.wording import ALPHA, decimals, model_name, unbroken
from prmkd_jax.common.files import write_text


def drawings(student: str, results: Mapping[str, Any]) -> list[Drawing]:
    """All figures that the results of one student have the data for."""
    outcome = results["students"][student]
    found = [_test_metric(student, results, metric) for metric in ("Recall@10", "NDCG@10")]
    if "improvement" in outcome:
        found.append(_improvement(student, outcome))
    found.append(_learning(student, outcome))
    diagnostics = teacher_diagnostics(outcome)
    # Of two teachers each disagrees as much as the other: the rule then never decides.
    if len(diagnostics) > 2:
        found.append(_exclusion(student, diagnostics))
    if len(diagnostics) > 1:
        found.append(_weights(student, diagnostics))
    return found


def teacher_diagnostics(outcome: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Each teacher's part in the distillation, averaged over all epochs of all seeds.

    Returns:
        Teacher → `assigned` (its weight by validation metric) and the quantities of the
        training history: `excluded`, `weight` (after exclusion), `entropy`, `agreement`,
        `kl`; nothing where there was no distillation.
    """
    if "prmkd" not in outcome:
        return {}
    records = [
        record["teachers"] for run in outcome["prmkd"]["per_seed"] for record in run["history"]
    ]
    return {
        name: {"assigned": float(weight)}
        | {
            key: float(np.mean([record[name][key] for record in records]))
            for key in records[0][name]
        }
        for name, weight in outcome["prmkd"]["teacher_weights"].items()
    }


def figure_names(student: str) -> list[str]:
    """The files that `save_figures` may write for a student."""
    kinds = ("recall-at-10", "ndcg-at-10", "improvement", "learning", "exclusion", "weights")
    return [f"{student}-{kind}.svg" for kind in kinds]


def save_figures(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Writes every figure as an SVG file into the folder, which is made where it is missing.

    Returns:
        The files.
    """
    paths = []
    for student in results["students"]:
        for drawing in drawings(student, results):
            paths.append(folder / f"{drawing.name}.svg")
            write_text(paths[-1], f'<?xml version="1.0" encoding="utf-8"?>\n{drawing.svg}\n')
    return paths


def variant_names(student: str, outcome: Mapping[str, Any]) -> dict[str, str]:
    """The variants that were trained, with what figures call them."""
    names = {"base": model_name(student), "prmkd": "PRM-KD"}
    return {kind: name for kind, name in names.items() if kind in outcome}


def _test_metric(student: str, results: Mapping[str, Any], metric: str) -> Drawing:
    outcome = results["students"][student]
    bars = [
        (model_name(name), teacher["test"][metric], 0.0, TEACHER)
        for name, teacher in results["teachers"].items()
    ]
    for kind, label in variant_names(student, outcome).items():
        variant = outcome[kind]
        spread = (variant["test_std"] or {}).get(metric, 0.0)
        bars.append((label, variant["test"][metric], spread, COLOURS[kind]))
    labels, values, errors, colours = zip(*bars, strict=True)

    def draw(axes: Axes) -> None:
        horizontal_bars(axes, labels, values, [*map(decimals, values)], colours, errors)
        axes.set_xlabel(f"{metric}, test set")

    seeds = len(outcome["base"]["per_seed"])
    shown = ", ".join(f"{label} {decimals(value)}" for label, value, *_ in bars)
    whiskers = f" Students: mean of {seeds} seeds, whiskers ±1 standard deviation."
    return Drawing(
        name=f"{student}-{metric.replace('@', '-at-').lower()}",
        title=f"{metric} on the test set",
        note="All items ranked, all users." + (whiskers if seeds > 1 else ""),
        alt=f"Bar chart of {metric} on the test set: {shown}.",
        svg=draw_svg(0.9 + 0.34 * len(bars), draw),
    )


def _improvement(student: str, outcome: Mapping[str, Any]) -> Drawing:
    name = model_name(student)
    gains = {metric: gain or 0.0 for metric, gain in outcome["improvement"].items()}
    texts = [unbroken(gain) for gain in outcome["improvement"].values()]
    significant = [outcome["p_value"][metric] < ALPHA for metric in gains]

    def draw(axes: Axes) -> None:
        values = [100 * gain for gain in gains.values()]
        horizontal_bars(axes, [*gains], values, texts, [PRMKD] * len(gains), filled=significant)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(f"change against {name}, %")

    shown = ", ".join(
        f"{metric} {text}" + ("" if sure else " (not significant)")
        for metric, text, sure in zip(gains, texts, significant, strict=True)
    )
    return Drawing(
        name=f"{student}-improvement",
        title="What distillation changes",
        note=f"PRM-KD against {name}, test set. Hollow: p ≥ {ALPHA:g}, paired t-test.",
        alt=f"Bar chart of PRM-KD’s change against {name}: {shown}.",
        svg=draw_svg(0.8 + 0.3 * len(gains), draw),
    )


def _learning(student: str, outcome: Mapping[str, Any]) -> Drawing:
    names = variant_names(student, outcome)
    curves = {
        kind: [
            np.array([record["validation"]["NDCG@10"] for record in run["history"]])
            for run in outcome[kind]["per_seed"]
        ]
        for kind in names
    }

    def draw(axes: Axes) -> None:
        for kind, runs in curves.items():
            colour = COLOURS[kind]
            for run, curve in zip(outcome[kind]["per_seed"], runs, strict=True):
                best = run["best_epoch"]
                axes.plot(1 + np.arange(len(curve)), curve, color=colour, lw=0.7, alpha=0.6)
                if best:  # 0 is the start, which has no epoch
                    axes.plot(best, curve[best - 1], "o", color=colour, ms=3.5)
            shared = min(map(len, runs))
            mean = np.mean([curve[:shared] for curve in runs], axis=0)
            axes.plot(1 + np.arange(shared), mean, color=colour, lw=2, label=names[kind])
        axes.set_xlabel("epoch")
        axes.set_ylabel("NDCG@10, validation")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower right")

    best = {kind: float(np.mean([curve.max() for curve in runs])) for kind, runs in curves.items()}
    seeds = len(curves["base"])
    thin = f"Thin: {seeds} seeds. Thick: their mean, as far as all run. " if seeds > 1 else ""
    shown = ", ".join(f"{names[kind]} {decimals(value)}" for kind, value in best.items())
    return Drawing(
        name=f"{student}-learning",
        title="Learning curves",
        note=f"{thin}Dots: the epochs kept, the best on validation.",
        alt=f"Line chart of validation NDCG@10 over epochs. Best, mean of seeds: {shown}.",
        svg=draw_svg(2.9, draw),
    )


def _exclusion(student: str, diagnostics: Mapping[str, Mapping[str, float]]) -> Drawing:
    labels = [model_name(name) for name in diagnostics]
    shares = [100 * teacher["excluded"] for teacher in diagnostics.values()]
    texts = [f"{share:.1f} %" for share in shares]

    def draw(axes: Axes) -> None:
        horizontal_bars(axes, labels, shares, texts, [TEACHER] * len(labels))
        axes.set_xlabel("share of training instances, %")

    shown = ", ".join(f"{label} {text}" for label, text in zip(labels, texts, strict=True))
    return Drawing(
        name=f"{student}-exclusion",
        title="Teachers excluded for disagreeing",
        note=f"Mean over epochs and seeds. All kept: {100 - sum(shares):.1f} % of instances.",
        alt=f"Bar chart of how often each teacher was excluded: {shown}.",
        svg=draw_svg(0.9 + 0.34 * len(labels), draw),
    )


def _weights(student: str, diagnostics: Mapping[str, Mapping[str, float]]) -> Drawing:
    labels = [model_name(name) for name in diagnostics]
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
        name=f"{student}-weights",
        title="Teachers’ weights",
        note="Assigned by validation NDCG@10; what an excluded teacher loses goes to the others.",
        alt=f"Bar chart of the teachers’ weights: {shown}.",
        svg=draw_svg(1.3 + 0.42 * len(labels), draw),
    )
