"""The run as one HTML page that needs nothing but a browser."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from experiments.reporting.figures import drawings, teacher_diagnostics
from experiments.reporting.plotting import BASE, FONT, INK, PRMKD, RULE, TEACHER, Drawing
from experiments.reporting.tables import ResultRow, student_rows, teacher_rows
from experiments.reporting.wording import (
    MISSING,
    NO_BREAK,
    count,
    decimals,
    headline,
    lookup,
    model_name,
    p_value_typeset,
    seconds,
    size,
    unbroken,
)
from prmkd_jax.common.files import write_text

METRICS = ("Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR")
# The page's own colours and letters, so that figures follow it into the dark.
PAGE = {
    INK: "currentColor",
    RULE: "var(--rule)",
    BASE: "var(--base)",
    PRMKD: "var(--prmkd)",
    TEACHER: "var(--teacher)",
    f"'{FONT}', sans-serif": "var(--sans)",
}


def write_report(path: Path, results: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
    """Writes the page, wholly or not at all; equal results and times give equal bytes.

    Args:
        path: the HTML file; its folder exists.
        results: results.json.
        timing: timing.json; what is missing shows as a dash.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "model_name": model_name,
        "decimals": decimals,
        "percent": unbroken,
        "p_value": p_value_typeset,
        "count": lambda number: count(number).replace(" ", NO_BREAK),
        "size": lambda number: size(number).replace(" ", NO_BREAK),
        "seconds": lambda duration: seconds(duration).replace(" ", NO_BREAK),
        "setting": _setting,
    }
    page = environment.get_template("report.html").render(
        results=results,
        timing=timing,
        metrics=METRICS,
        teachers=teacher_rows(results, timing),
        students=[_student(name, results, timing) for name in results["students"]],
        best=best_digits(results),
        lookup=lookup,
        longest=max(timing.get("stages", {}).values(), default=0),
    )
    write_text(path, page)


def best_digits(results: Mapping[str, Any]) -> dict[str, str]:
    """The best value of every test metric over all models, as it is printed.

    Digits rather than floats: what reads equal is equally bold.
    """
    tests = [teacher["test"] for teacher in results["teachers"].values()]
    for outcome in results["students"].values():
        tests += [outcome[kind]["test"] for kind in ("base", "prmkd") if kind in outcome]
    return {metric: decimals(max(test[metric] for test in tests)) for metric in METRICS}


def _student(name: str, results: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's section on one student needs."""
    outcome = results["students"][name]
    rows: list[ResultRow] = student_rows(name, results, timing)
    epochs = [
        lookup(timing, "students", name, kind, "seconds_per_epoch") for kind in ("base", "prmkd")
    ]
    return {
        "name": name,
        "headline": headline(name, outcome),
        "rows": rows,
        "outcome": outcome,
        "figures": [(drawing, *inline_content(drawing)) for drawing in drawings(name, results)],
        "diagnostics": teacher_diagnostics(outcome),
        "thresholds": _thresholds(outcome),
        "epoch_ratio": epochs[1] / epochs[0] if all(epochs) else None,
    }


def _thresholds(outcome: Mapping[str, Any]) -> str:
    """The consistency rule's threshold of every seed, "" where the rule never excludes."""
    runs = outcome["prmkd"]["per_seed"] if "prmkd" in outcome else []
    return ", ".join(f"{run['threshold']:.4g}" for run in runs if run["threshold"] is not None)


def inline_content(drawing: Drawing) -> tuple[str, str]:
    """A figure as part of the page: in its colours, with ids that no other figure has.

    Returns:
        The `viewBox`, and what stands inside the `<svg>` element.
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


def _setting(value: Any) -> str:
    """A flag's value as one would type it."""
    if value is None:
        return MISSING
    if isinstance(value, list | tuple):
        return ",".join(map(_setting, value))
    return value if isinstance(value, str) else json.dumps(value)
