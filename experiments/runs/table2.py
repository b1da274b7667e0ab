"""`study table2`: the statistics of data sets next to the paper's Table 2."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from matplotlib.axes import Axes

from experiments.cli.command import Call
from experiments.cli.options import StudyConfig
from experiments.cli.settings import Settings
from experiments.reporting.paper import TABLE2
from experiments.reporting.plotting import BASE, DISTILLED, Sketch, horizontal_bars
from experiments.reporting.wording import MISSING, count
from experiments.runs.analysis import Found, analyse
from experiments.stages.data import data_sets_in, load_task
from experiments.stages.record import describe_data
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import STATISTICS

# How far our figure may be from the printed one: half of its last digit.
_WITHIN = {"average_length": 0.005, "sparsity": 0.005}
REASONS = {
    "Scientific": "another filtering: with 8,442 users it is UniSRec's release, while 11,041 users "
    "are, from memory, Recformer's",
    "Games": "another filtering: no release with the paper's counts is known",
    "Toys": "another filtering: no release with the paper's counts is known",
    "Arts": "the paper's counts are those of UniSRec's release",
    "Instruments": "the paper's users are those of UniSRec's release, its items and interactions "
    "are fewer",
}
"""Why a data set of this name may differ."""


class DataSetRow(TypedDict):
    """A data set: our statistics and the paper's by column, whether they agree, and why not."""

    name: str
    ours: Mapping[str, float]
    paper: Mapping[str, float] | None
    same: Mapping[str, bool] | None
    why: str


def run(call: Call) -> None:
    """Describes every data set of `--datasets`, or all in `--data_dir`."""
    names = data_sets(call.settings, call.config(StudyConfig))
    tasks = {name: describe_data(load_task(of(call.settings, name))) for name in names}
    fingerprints = {name: data["fingerprint"] for name, data in tasks.items()}
    analyse(call, "table2", {"data": fingerprints}, ["table2"], lambda: find(tasks))


def of(settings: Settings, name: str) -> Settings:
    """The same settings for another data set."""
    return dataclasses.replace(settings, data=dataclasses.replace(settings.data, dataset=name))


def data_sets(settings: Settings, study: StudyConfig) -> list[str]:
    """The data sets that were asked for, else all folders of `--data_dir` that hold one.

    Raises:
        UserError: there is none.
    """
    if study.datasets:
        return list(study.datasets)
    folder = settings.data.data_dir
    found = data_sets_in(folder)
    if not found:
        raise UserError(f"--data_dir: found no data set in {folder}, expected at least one")
    return found


def find(data: Mapping[str, Mapping[str, Any]]) -> Found:
    """The table, with those of the paper that aren't at hand.

    Args:
        data: name → its entry as in a record.
    """
    rows = [row(name, each) for name, each in data.items()]
    missing = [name for name in TABLE2 if name not in data]
    return Found(
        {"study": {"name": "table2"}, "rows": rows, "missing": missing},
        markdown(rows, missing),
        {"table2": sketch(rows)},
    )


def row(name: str, data: Mapping[str, Any]) -> DataSetRow:
    """One data set: ours, the paper's, whether they agree, and why not."""
    ours = {column: data[column] for column in STATISTICS}
    ours["sparsity"] *= 100
    if name not in TABLE2:
        return {"name": name, "ours": ours, "paper": None, "same": None, "why": "not in the paper"}
    paper: dict[str, float] = dict(zip(STATISTICS, TABLE2[name], strict=True))
    same = {
        column: bool(abs(ours[column] - paper[column]) <= _WITHIN.get(column, 0))
        for column in STATISTICS
    }
    why = "" if all(same.values()) else REASONS[name]
    return {"name": name, "ours": ours, "paper": paper, "same": same, "why": why}


def own_contradictions() -> list[str]:
    """Where the paper's averages and sparsities don't follow from its own counts."""
    found = []
    for name, (users, items, interactions, average, sparsity) in TABLE2.items():
        real = interactions / users
        if abs(real - average) > _WITHIN["average_length"]:
            found.append(f"{name}: average length {average:.2f}, from its counts {real:.2f}")
        real = 100 * (1 - interactions / users / items)
        if abs(real - sparsity) > _WITHIN["sparsity"]:
            found.append(f"{name}: sparsity {sparsity:.2f} %, from its counts {real:.3f} %")
    return found


def markdown(rows: Sequence[DataSetRow], missing: Sequence[str]) -> str:
    """The table, and what it says of the paper's."""
    lines = [
        "Statistics of the data sets; in brackets the paper's Table 2, ✓ where it agrees to its "
        "last digit and ≠ where not.",
        "",
        "| data set | users | items | interactions | average length | sparsity, % | why |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        cells = [_cell(each, column) for column in STATISTICS]
        lines.append(f"| {each['name']} | {' | '.join(cells)} | {each['why']} |")
    for name in missing:
        values = dict(zip(STATISTICS, TABLE2[name], strict=True))
        cells = [f"{MISSING} ({_digits(column, values[column])})" for column in STATISTICS]
        lines.append(f"| {name} | {' | '.join(cells)} | not at hand; {REASONS[name]} |")
    lines += ["", "The paper's own columns don't agree with each other:", ""]
    return "\n".join([*lines, *(f"- {line}" for line in own_contradictions())]) + "\n"


def _cell(each: DataSetRow, column: str) -> str:
    ours = _digits(column, each["ours"][column])
    paper, same = each["paper"], each["same"]
    if paper is None or same is None:
        return ours
    return f"{ours} ({_digits(column, paper[column])} {'✓' if same[column] else '≠'})"


def _digits(column: str, value: float) -> str:
    if column in _WITHIN:
        return f"{value:.2f}" if column == "average_length" else f"{value:.3f}"
    return f"{value:,.0f}"


def sketch(rows: Sequence[DataSetRow]) -> Sketch:
    """Interactions of every data set, ours and the paper's."""
    bars = []
    for each in rows:
        bars.append((each["name"], each["ours"]["interactions"], DISTILLED))
        if each["paper"] is not None:
            bars.append((f"{each['name']}, the paper's", each["paper"]["interactions"], BASE))
    labels, values, colours = zip(*bars, strict=True)

    def draw(axes: Axes) -> None:
        horizontal_bars(axes, labels, values, [count(value) for value in values], colours)
        axes.set_xlabel("interactions")

    shown = [f"{label} {count(value)}" for label, value, _ in bars]
    alt = f"Bar chart of the data sets' interactions: {', '.join(shown)}."
    return Sketch(0.9 + 0.34 * len(bars), draw, alt)
