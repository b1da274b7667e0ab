"""Variants against teachers, untrained models and other starts, as tables of their own."""

from collections.abc import Mapping

from experiments.reporting.groups import teachers_in_order, untrained
from experiments.reporting.results import Comparison, Results
from experiments.reporting.wording import MISSING, p_value, percent
from prmkd_jax.evaluate.metrics import KEY_METRICS

_CHANGES_OF = KEY_METRICS[::-1]
"""The metrics of the Markdown tables, the main one first; the page and the JSON have all."""


def compared_models(results: Results) -> dict[str, str]:
    """Name → label of the models that variants are compared with, in the result table's order."""
    models = {**untrained(results), **teachers_in_order(results)}
    known = {name for row in results["variants"] for name in row.get("against_models", {})}
    return {name: model["label"] for name, model in models.items() if name in known}


def start_lines(results: Results) -> list[str]:
    """Distilled variants against their students alone from another start; nothing without one."""
    labels = {row["name"]: row["label"] for row in results["variants"]}
    lines = [
        f"| {row['label']} | {labels[name]} | "
        f"{' | '.join(_cell(against, metric) for metric in _CHANGES_OF)} |"
        for row in results["variants"]
        for name, against in row.get("against_alone", {}).items()
    ]
    if not lines:
        return []
    return [
        "",
        "Change against the student alone from another start (p of the t-test / of Wilcoxon's), "
        "over users, Holm-corrected over the table.",
        "",
        f"| variant | against | {' | '.join(_CHANGES_OF)} |",
        "|---|---|---|---|",
        *lines,
    ]


def model_lines(results: Results) -> list[str]:
    """A table a metric: a row a variant, a column a model; nothing where none was compared."""
    models = compared_models(results)
    if not models:
        return []
    lines = []
    for metric in _CHANGES_OF:
        lines += [
            "",
            f"Change of {metric} against each teacher and untrained model (p of the t-test / of "
            "Wilcoxon's), over users, Holm-corrected over the table.",
            "",
            f"| variant | {' | '.join(models.values())} |",
            f"|---|{'---|' * len(models)}",
        ]
        for row in results["variants"]:
            against = row.get("against_models", {})
            cells = [_cell(against.get(name, {}), metric) for name in models]
            lines.append(f"| {row['label']} | {' | '.join(cells)} |")
    return lines


def _cell(against: Mapping[str, Comparison], metric: str) -> str:
    if metric not in against:
        return MISSING
    one = against[metric]
    tests = f"{p_value(one['t_p_holm'])} / {p_value(one['wilcoxon_p_holm'])}"
    return f"{percent(one['change'])} ({tests})"
