"""Finished runs compared: what a variant differs from its reference, as a table and a figure."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from experiments.reporting.plotting import BASE, PRMKD, TEACHER, draw_svg, horizontal_bars
from experiments.reporting.wording import (
    ALPHA,
    count,
    decimals,
    model_name,
    p_value,
    percent,
    seconds,
)
from experiments.runs.finished import FinishedRun
from experiments.runs.variant import Variant
from prmkd_jax.evaluate.metrics import METRICS
from prmkd_jax.evaluate.significance import compare, holm

SHOWN = "NDCG@10"


def describe(
    variants: Sequence[Variant], runs: Mapping[str, Sequence[FinishedRun]]
) -> list[dict[str, Any]]:
    """Every variant's results, and what its difference from its reference is worth.

    Each user's metric is averaged over the seeds, then one paired test runs over the users. The
    p-values of a metric are corrected together, over all variants, by Holm's method.

    Args:
        variants: in the table's order.
        runs: name → its runs, one a seed.
    """
    ranks = {
        name: np.stack([run.ranks for run in each if run.ranks is not None])
        for name, each in runs.items()
    }
    references = {v.name: v.reference for v in variants if v.reference is not None}
    compared = {
        name: compare(ranks[reference], ranks[name]) for name, reference in references.items()
    }
    against: dict[str, dict[str, Any]] = {name: {} for name in references}
    for metric in METRICS:
        t_holm = holm([compared[name][metric].t_p for name in references])
        wilcoxon_holm = holm([compared[name][metric].wilcoxon_p for name in references])
        for name, t, wilcoxon in zip(references, t_holm, wilcoxon_holm, strict=True):
            against[name][metric] = {
                "change": compared[name][metric].improvement,
                "t_p": compared[name][metric].t_p,
                "t_p_holm": t,
                "wilcoxon_p": compared[name][metric].wilcoxon_p,
                "wilcoxon_p_holm": wilcoxon,
            }
    return [
        {**_describe_variant(variant, runs[variant.name]), "against": against.get(variant.name)}
        for variant in variants
    ]


def describe_timing(runs: Sequence[FinishedRun]) -> dict[str, float] | None:
    """Training seconds: the median over all epochs, and the mean over seeds until the best one.

    Epochs are alike: a longer one has compiled, or shared its machine. None where a run has
    left no log of them.
    """
    if not all(len(run.epoch_seconds) == run.epochs for run in runs):
        return None
    return {
        "seconds_per_epoch": statistics.median(s for run in runs for s in run.epoch_seconds),
        "seconds_to_best": statistics.fmean(
            sum(run.epoch_seconds[: run.best_epoch]) for run in runs
        ),
    }


def markdown(results: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """The variants as a Markdown table.

    Args:
        results: as in `<name>.json`.
        timing: as in `<name>_timing.json`.
    """
    settings, rows = results["settings"], results["variants"]
    students, seeds = ", ".join(map(model_name, results["students"])), len(settings["seeds"])
    lines = [
        f"{results['title']}: {students} on {settings['dataset']}, test part, mean of {seeds} "
        f"seed{'s' if seeds > 1 else ''}; change and p-values against {results['versus']}, over "
        "users, Holm-corrected; seconds of training without the validations, of the median epoch "
        "and of all until the best.",
        "",
        "| variant | Recall@10 | NDCG@10 | change of NDCG@10 | p, t-test | p, Wilcoxon | "
        "validation NDCG@10 | best epoch | an epoch | to the best epoch | parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["label"], decimals(row["test"]["Recall@10"]), decimals(row["test"][SHOWN])]
        against = row["against"] and row["against"][SHOWN]
        if against:
            cells += [percent(against["change"]), p_value(against["t_p_holm"])]
            cells += [p_value(against["wilcoxon_p_holm"])]
        else:
            cells += ["", "", ""]
        cells += [decimals(row["validation"][SHOWN]), f"{row['best_epoch']:.0f}"]
        took = timing[row["name"]] or {}
        cells += [seconds(took.get(key)) for key in ("seconds_per_epoch", "seconds_to_best")]
        cells += [count(row["parameters"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(results: Mapping[str, Any]) -> str:
    """The variants' test NDCG@10 as bars; hollow ones don't differ from their reference."""
    rows = results["variants"]
    values = [row["test"][SHOWN] for row in rows]
    colours = {"base": BASE, "prmkd": PRMKD, "other": TEACHER}
    sure = [not row["against"] or row["against"][SHOWN]["t_p_holm"] < ALPHA for row in rows]
    words = [f"{SHOWN}, test set"]
    if any(row["test_std"][SHOWN] for row in rows):
        words.append("whiskers: ±1 standard deviation over seeds")
    if not all(sure):
        words.append(f"hollow: p ≥ {ALPHA:g} against {results['versus']}")

    def draw(axes: Axes) -> None:
        horizontal_bars(
            axes,
            [row["label"] for row in rows],
            values,
            [*map(decimals, values)],
            [colours[row["kind"]] for row in rows],
            [row["test_std"][SHOWN] for row in rows],
            filled=sure,
        )
        axes.set_xlabel("\n".join(words))

    svg = draw_svg(0.9 + 0.34 * len(rows) + 0.2 * (len(words) - 1), draw)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'


def _describe_variant(variant: Variant, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    def over_seeds(part: str, summarise: Callable[[list[float]], float]) -> dict[str, float]:
        return {
            metric: summarise([getattr(run, part)[metric] for run in runs]) for metric in METRICS
        }

    def spread(values: list[float]) -> float:
        return statistics.stdev(values) if len(values) > 1 else 0.0

    kept = [field.name for field in dataclasses.fields(runs[0])]
    kept = [name for name in kept if name not in ("ranks", "epoch_seconds")]
    per_seed = [{name: getattr(run, name) for name in kept} for run in runs]
    return {
        **variant._asdict(),
        "validation": over_seeds("validation", statistics.fmean),
        "test": over_seeds("test", statistics.fmean),
        "test_std": over_seeds("test", spread),
        "best_epoch": statistics.fmean(run.best_epoch for run in runs),
        "parameters": runs[0].parameters,
        "per_seed": per_seed,
    }
