"""The results on the terminal."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.reporting.wording import (
    count,
    decimals,
    lookup,
    model_name,
    p_value,
    percent,
    seconds,
)

COLUMNS = ("Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20")


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model in the result table.

    Attributes:
        label: its name.
        kind: "teacher", "base" or "prmkd".
        test: the test metrics, for a student the mean over seeds.
        std: their standard deviation over seeds, None where there is one seed.
        train_seconds: what training it took, None where it came from the cache.
        parameters: what serving it needs.
    """

    label: str
    kind: str
    test: Mapping[str, float]
    std: Mapping[str, float] | None
    train_seconds: float | None
    parameters: int | None


def teacher_rows(results: Mapping[str, Any], timing: Mapping[str, Any]) -> list[ResultRow]:
    """One row a teacher, in the order of results.json."""
    return [
        ResultRow(
            label=model_name(name),
            kind="teacher",
            test=teacher["test"],
            std=None,
            train_seconds=lookup(timing, "teachers", name, "tune"),
            # 0 where only vectors were given and nothing is known of the model.
            parameters=teacher["parameters"] or None,
        )
        for name, teacher in results["teachers"].items()
    ]


def student_rows(
    student: str, results: Mapping[str, Any], timing: Mapping[str, Any]
) -> list[ResultRow]:
    """The plain student and, where there were teachers, the distilled one."""
    name, outcome = model_name(student), results["students"][student]
    return [
        ResultRow(
            label=label,
            kind=kind,
            test=variant["test"],
            std=variant["test_std"],
            train_seconds=lookup(timing, "students", student, kind, "train_seconds"),
            parameters=variant["parameters"],
        )
        for kind, label in (("base", name), ("prmkd", f"PRM-KD ({name})"))
        if kind in outcome
        for variant in (outcome[kind],)
    ]


def dataset_lines(dataset: Mapping[str, Any]) -> tuple[str, str]:
    """The paper's Table 2 for this data set, and what the split leaves cold."""
    return (
        f"{dataset['name']}: {dataset['users']:,} users, {dataset['items']:,} items, "
        f"{dataset['interactions']:,} interactions",
        f"{dataset['average_length']:.2f} items a user, "
        f"sparsity {100 * dataset['sparsity']:.3f} %, "
        f"{dataset['cold_targets']:,} test targets never occur in training",
    )


def result_table(results: Mapping[str, Any], timing: Mapping[str, Any], width: int) -> Table:
    """Every model's test metrics, time and size; below each student the gain and its tests.

    The spread over seeds has a line of its own, so that all fits a log of 80 columns.

    Args:
        results: results.json.
        timing: timing.json.
        width: the columns that the terminal has.
    """
    table = Table(
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1) if width >= 100 else 0,
    )
    table.add_column("Model\n(test set)", overflow="fold")
    for header in (
        *(column.replace("@", "\n@") for column in COLUMNS),
        "Training",
        "Served\nparams",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    for row in teacher_rows(results, timing):
        _add_model(table, row)
    for student, outcome in results["students"].items():
        table.add_section()
        for row in student_rows(student, results, timing):
            _add_model(table, row)
        if "improvement" not in outcome:
            continue
        table.add_section()
        gains = [outcome["improvement"][column] for column in COLUMNS]
        table.add_row("Improvement", *(_gain(gain) for gain in gains))
        for label, key in (("p, t-test", "p_value"), ("p, Wilcoxon", "p_value_wilcoxon")):
            table.add_row(
                label, *(p_value(outcome[key][column]) for column in COLUMNS), style="dim"
            )
    return table


def _add_model(table: Table, row: ResultRow) -> None:
    table.add_row(
        # Text, not markup: a user's own teacher may have brackets in its name.
        Text(row.label),
        *(decimals(row.test[column]) for column in COLUMNS),
        seconds(row.train_seconds),
        count(row.parameters),
        style="bold" if row.kind == "prmkd" else "",
    )
    if row.std is not None:
        spread = (f"±{row.std[column]:.4f}".replace("±0.", "±.") for column in COLUMNS)
        table.add_row("  over seeds", *spread, style="dim")


def _gain(fraction: float | None) -> Text:
    style = "" if not fraction else "green" if fraction > 0 else "red"
    return Text(percent(fraction), style=style)


def print_results(
    console: Console,
    results: Mapping[str, Any],
    timing: Mapping[str, Any],
    files: Mapping[str, Path],
) -> None:
    """Prints the data set, the result table and where the files lie.

    Args:
        console: where to; it keeps to the console's width.
        results: results.json.
        timing: timing.json.
        files: what a file holds → the file.
    """
    for line in dataset_lines(results["dataset"]):
        console.print(Text(line))
    console.print()
    console.print(result_table(results, timing, console.width))
    console.print()
    label_width = max(map(len, files), default=0)
    for label, path in files.items():
        # A path broken over two lines can't be copied.
        console.print(Text(f"{label:<{label_width}}  {path}"), soft_wrap=True)
