"""Studies of several data sets in one table, next to the paper's Table 3."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from experiments.reporting.paper import paper_value
from experiments.reporting.results import Results
from experiments.reporting.tables import teacher_rows, untrained_rows, variant_row
from experiments.reporting.wording import ALPHA, MISSING, decimals, percent
from prmkd_jax.common.reading import open_regular
from prmkd_jax.evaluate.metrics import KEY_METRICS


def together(title: str, several: Mapping[str, Results]) -> str:
    """Models as rows, data sets as columns, as Markdown.

    Args:
        title: the subject of the comparison.
        several: data set → the results of its study.
    """
    values = {name: _values(results) for name, results in several.items()}
    labels = dict.fromkeys(label for rows in values.values() for label in rows)
    versus = next(iter(several.values()))["study"]["versus"]
    columns = [(name, metric) for name in several for metric in KEY_METRICS]
    lines = [
        f"{_head(title)}, history not masked. In brackets the paper's cell, "
        f"for another filtering of the data (study table2); *: p < {ALPHA:g} against {versus}, "
        "paired t-test over users, Holm-corrected over the data set's table; bold: the best.",
        "",
        f"| model | {' | '.join(f'{name} {metric}' for name, metric in columns)} |",
        f"|---|{'---|' * len(columns)}",
    ]
    for label in labels:
        cells = [_cell(values[name], name, label, metric) for name, metric in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    changes = [_change(several[name], metric) for name, metric in columns]
    if any(change != MISSING for change in changes):
        lines.append(f"| change by distillation | {' | '.join(changes)} |")
    return "\n".join(lines) + "\n"


def is_together(path: Path, title: str) -> bool:
    """Whether a file is a table that `together` has made under this title."""
    head = _head(title).encode()
    with contextlib.suppress(OSError), open_regular(path) as stream:
        return stream.read(len(head)) == head
    return False


def _head(title: str) -> str:
    """How such a table begins, and that of one data set doesn't."""
    return f"{title}: test part, means over seeds"


Cell = tuple[float, bool]


def _values(results: Results) -> dict[str, dict[str, Cell]]:
    """Model → metric → value, and whether it differs from the base for certain."""
    rows = [*untrained_rows(results), *teacher_rows(results, {})]
    found = {one.label: {name: (one.test[name], False) for name in KEY_METRICS} for one in rows}
    for variant in results["variants"]:
        against = variant["against"]
        found[variant_row(variant, {}).label] = {
            metric: (
                variant["test"][metric],
                against is not None and against[metric]["t_p_holm"] < ALPHA,
            )
            for metric in KEY_METRICS
        }
    return found


def _cell(rows: Mapping[str, Mapping[str, Cell]], data: str, label: str, metric: str) -> str:
    if label not in rows:
        return MISSING
    value, sure = rows[label][metric]
    text = decimals(value)
    if text == max(decimals(row[metric][0]) for row in rows.values()):
        text = f"**{text}**"
    paper = paper_value(data, label, metric)
    return text + ("*" if sure else "") + (f" ({decimals(paper)})" if paper is not None else "")


def _change(results: Results, metric: str) -> str:
    """The distilled variant's against what it is compared with; a dash where there are several."""
    changes = [
        variant["against"][metric]["change"]
        for variant in results["variants"]
        if variant["kind"] == "distilled" and variant["against"] is not None
    ]
    return percent(changes[0]) if len(changes) == 1 else MISSING
