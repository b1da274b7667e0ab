"""The results of a study as one HTML page that needs nothing but a browser."""

import json
import re
from pathlib import Path

from experiments.reporting.figures import drawings, teacher_diagnostics, teacher_labels
from experiments.reporting.groups import VariantGroup, group_variants, teachers_in_order, untrained
from experiments.reporting.list_table import LISTS, list_cells
from experiments.reporting.masked_table import masked_rows
from experiments.reporting.model_table import compared_models
from experiments.reporting.plotting import BASE, DISTILLED, FONT, INK, RULE, TEACHER, Drawing
from experiments.reporting.results import Results, Timing, VariantResult
from experiments.reporting.tables import teacher_rows, untrained_rows, variant_row
from experiments.reporting.templates import render
from experiments.reporting.wording import (
    MISSING,
    NO_BREAK,
    ONE_SEED,
    count,
    decimals,
    headline,
    lookup,
    p_value_typeset,
    seconds,
    seed_count,
    size,
    unbroken,
)
from prmkd_jax.common.files import write_text
from prmkd_jax.evaluate.metrics import METRICS

# The page's own colours and letters, so that figures follow it into the dark.
PAGE = {
    INK: "currentColor",
    RULE: "var(--rule)",
    BASE: "var(--base)",
    DISTILLED: "var(--distilled)",
    TEACHER: "var(--teacher)",
    f"'{FONT}', sans-serif": "var(--sans)",
}


def write_report(
    path: Path,
    results: Results,
    timing: Timing,
    names: tuple[str, str] = ("results.json", "timing.json"),
) -> None:
    """Writes the page, complete or not at all; equal results and times give equal bytes.

    Args:
        path: the HTML file; its folder exists.
        results: see docs/records.md.
        timing: see docs/records.md; a time that is missing shows as a dash.
        names: names of the files next to the page that hold both.
    """
    filters = {
        "decimals": decimals,
        "percent": unbroken,
        "p_value": p_value_typeset,
        "count": lambda number: count(number).replace(" ", NO_BREAK),
        "size": lambda number: size(number).replace(" ", NO_BREAK),
        "seconds": lambda duration: seconds(duration).replace(" ", NO_BREAK),
        "setting": _setting,
    }
    page = render(
        "report.html",
        filters,
        results={**results, "teachers": teachers_in_order(results)},
        timing=timing,
        files=dict(zip(("results", "timing"), names, strict=True)),
        metrics=METRICS,
        teachers=[*untrained_rows(results), *teacher_rows(results, timing)],
        labels=teacher_labels(results),
        sheet=results["data"].get("sheet", []),
        groups=[_section(group, results, timing) for group in group_variants(results)],
        best=best_digits(results),
        masked=masked_rows(results, p_value_typeset),
        models=compared_models(results),
        starts=_starts(results),
        list_headings=list(LISTS.values()),
        lists={
            variant["label"]: list_cells(lists)
            for variant in results["variants"]
            if (lists := variant.get("lists"))
        },
        lookup=lookup,
        seeds=seed_count(results["variants"]),
        one_seed=ONE_SEED,
        longest=max(timing.get("stages", {}).values(), default=0),
    )
    write_text(path, page)


def _starts(results: Results) -> dict[str, str]:
    """Name → label of the students alone with which a distilled one is compared besides."""
    known = {name for row in results["variants"] for name in row.get("against_alone", {})}
    return {row["name"]: row["label"] for row in results["variants"] if row["name"] in known}


def best_digits(results: Results) -> dict[str, str]:
    """The best value of every test metric over all models, as it is printed.

    Digits rather than floats: what reads equal is equally bold.
    """
    models = [*untrained(results).values(), *results["teachers"].values(), *results["variants"]]
    return {metric: decimals(max(model["test"][metric] for model in models)) for metric in METRICS}


def _section(group: VariantGroup, results: Results, timing: Timing) -> dict[str, object]:
    """What the page shows of one group of variants."""
    return {
        "headline": headline(group),
        "reference": group.reference,
        "pair": group.pair,
        "variants": group.variants,
        "rows": {variant["name"]: variant_row(variant, timing) for variant in group.variants},
        "figures": [(drawing, *inline_content(drawing)) for drawing in drawings(group, results)],
        "diagnostics": {
            variant["name"]: diagnostics
            for variant in group.variants
            if (diagnostics := teacher_diagnostics(variant, teachers_in_order(results)))
        },
        "thresholds": {variant["name"]: _thresholds(variant) for variant in group.variants},
        "epoch_ratio": _epoch_ratio(group, timing),
    }


def _epoch_ratio(group: VariantGroup, timing: Timing) -> float | None:
    """How much longer an epoch takes with distillation; None where a time is missing."""
    if group.pair is None:
        return None
    before, after = (
        lookup(timing, "variants", variant["name"], "seconds_per_epoch")
        for variant in (group.reference, group.pair)
    )
    return after / before if before and after else None


def _thresholds(variant: VariantResult) -> str:
    """The consistency rule's threshold of every seed, "" where the rule never excludes."""
    found = [seed["threshold"] for seed in variant["seeds"]]
    return ", ".join(f"{threshold:.4g}" for threshold in found if threshold is not None)


def inline_content(drawing: Drawing) -> tuple[str, str]:
    """A figure as part of the page: in its colours, with ids that no other figure has.

    Returns:
        The `viewBox`, and the content of the `<svg>` element.
    """
    svg = drawing.svg
    for drawn, own in PAGE.items():
        svg = svg.replace(drawn, own)
    # Every figure has an "axes_1", and references would cross.
    svg = re.sub(r'\bid="', f'id="{drawing.name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\g<1>#{drawing.name}-", svg)
    head, _, content = svg.partition(">")
    _, _, view_box = head.partition('viewBox="')
    return view_box.partition('"')[0], content.removesuffix("</svg>")


def _setting(value: object) -> str:
    """A flag's value as one would type it."""
    if value is None:
        return MISSING
    if isinstance(value, list | tuple):
        return ",".join(map(_setting, value))
    return value if isinstance(value, str) else json.dumps(value)
