"""The results as a table: on the terminal, and as Markdown."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.reporting.choice import choice_lines
from experiments.reporting.groups import teachers_in_order, untrained
from experiments.reporting.list_table import list_lines
from experiments.reporting.masked_table import masked_lines
from experiments.reporting.model_table import model_lines, start_lines
from experiments.reporting.results import (
    Comparison,
    Data,
    Results,
    TeacherResult,
    Timing,
    VariantResult,
)
from experiments.reporting.wording import (
    count,
    decimals,
    lookup,
    p_value,
    percent,
    seconds,
    seed_count,
)
from prmkd_jax.evaluate.metrics import KEY_METRIC, KEY_METRICS

COLUMNS = ("Recall@5", "Recall@10", "Recall@20", "NDCG@5", "NDCG@10", "NDCG@20")


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """One model in the result table.

    Attributes:
        label: display name.
        kind: "teacher", "base", "distilled" or "other".
        test: test metrics; for a student the mean over seeds.
        std: sample standard deviation of these metrics over seeds; None where there is one seed.
        train_seconds: wall-clock time of its training; None where it is not known.
        parameters: numbers that serving needs; None where they are not known.
    """

    label: str
    kind: str
    test: Mapping[str, float]
    std: Mapping[str, float] | None
    train_seconds: float | None
    parameters: int | None


def teacher_rows(results: Results, timing: Timing) -> list[ResultRow]:
    """One row a teacher, in the order of the results."""
    return [
        ResultRow(
            label=teacher["label"],
            kind="teacher",
            test=teacher["test"],
            std=None,
            train_seconds=lookup(timing, "teachers", name, "tune_seconds"),
            # 0 where only vectors were given and nothing is known of the model.
            parameters=teacher["parameters"] or None,
        )
        for name, teacher in teachers_in_order(results).items()
    ]


def untrained_rows(results: Results) -> list[ResultRow]:
    """One row for each of them."""
    return [
        ResultRow(
            label=model["label"],
            kind="teacher",
            test=model["test"],
            std=None,
            train_seconds=None,
            parameters=None,
        )
        for model in untrained(results).values()
    ]


def variant_row(variant: VariantResult, timing: Timing) -> ResultRow:
    """The row of one variant of the student."""
    return ResultRow(
        label=variant["label"],
        kind=variant["kind"],
        test=variant["test"],
        std=variant["test_std"],
        train_seconds=lookup(timing, "variants", variant["name"], "train_seconds"),
        parameters=variant["parameters"],
    )


def data_lines(data: Data) -> tuple[str, str]:
    """The paper's Table 2 for this data set, and what the split leaves cold."""
    return (
        f"{data['name']}: {data['users']:,} users, {data['items']:,} items, "
        f"{data['interactions']:,} interactions",
        f"{data['average_length']:.2f} items a user, "
        f"sparsity {100 * data['sparsity']:.3f} %, "
        f"{data['cold_targets']:,} test targets never occur in training",
    )


def result_table(results: Results, timing: Timing, width: int) -> Table:
    """Every model's test metrics, time and size; below a compared one the change and its tests.

    The spread over seeds has a line of its own, so that all fits a log of 80 columns. A narrower
    terminal gets the two metrics that count, whole, in place of all with their ends cut off.

    Args:
        results: see docs/records.md.
        timing: see docs/records.md.
        width: columns of the terminal.
    """
    table = Table(
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1) if width >= 100 else 0,
    )
    table.add_column("Model\n(test set)", overflow="fold")
    # A terminal of 40 columns has room for two.
    columns, costs = (COLUMNS, ["Training", "Served\nparams"]) if width >= 80 else (KEY_METRICS, [])
    for header in (*(column.replace("@", "\n@") for column in columns), *costs):
        table.add_column(header, justify="right", no_wrap=True)
    for row in (*untrained_rows(results), *teacher_rows(results, timing)):
        _add_model(table, row, columns, costs=bool(costs))
    for variant in results["variants"]:
        if variant["reference"] is None:
            table.add_section()
        _add_model(table, variant_row(variant, timing), columns, costs=bool(costs))
        if variant["against"] is not None:
            _add_tests(table, variant["against"], columns)
    return table


def _add_model(table: Table, row: ResultRow, columns: Sequence[str], *, costs: bool) -> None:
    table.add_row(
        # Text, not markup: a user's own teacher may have brackets in its name.
        Text(row.label),
        *(decimals(row.test[column]) for column in columns),
        *([seconds(row.train_seconds), count(row.parameters)] if costs else []),
        style="bold" if row.kind == "distilled" else "",
    )
    if row.std is not None:
        spread = (f"±{row.std[column]:.4f}".replace("±0.", "±.") for column in columns)
        table.add_row("  over seeds", *spread, style="dim")


def _add_tests(table: Table, against: Mapping[str, Comparison], columns: Sequence[str]) -> None:
    table.add_section()
    gains = [against[column]["change"] for column in columns]
    table.add_row("Improvement", *(_gain(gain) for gain in gains))
    t_test = (p_value(against[column]["t_p_holm"]) for column in columns)
    table.add_row("p, t-test", *t_test, style="dim")
    wilcoxon = (p_value(against[column]["wilcoxon_p_holm"]) for column in columns)
    table.add_row("p, Wilcoxon", *wilcoxon, style="dim")


def _gain(fraction: float | None) -> Text:
    style = "" if not fraction else "green" if fraction > 0 else "red"
    return Text(percent(fraction), style=style)


def print_results(
    console: Console,
    results: Results,
    timing: Timing,
    files: Mapping[str, Path],
) -> None:
    """Prints the data set, the result table and where the files are.

    Args:
        console: the console; its width decides the table's.
        results: see docs/records.md.
        timing: see docs/records.md.
        files: the content in a word → the file.
    """
    for line in data_lines(results["data"]):
        console.print(Text(line))
    console.print()
    console.print(result_table(results, timing, console.width))
    console.print()
    print_files(console, files)


def print_files(console: Console, files: Mapping[str, Path]) -> None:
    """Prints where files are, one a line."""
    label_width = max(map(len, files), default=0)
    for label, path in files.items():
        # A path broken over two lines can't be copied.
        console.print(Text(f"{label:<{label_width}}  {path}"), soft_wrap=True)


def markdown(results: Results, timing: Timing) -> str:
    """The untrained models, the teachers and the variants as a Markdown table.

    Args:
        results: see docs/records.md.
        timing: see docs/records.md.
    """
    settings = results["settings"]
    students = dict.fromkeys(variant["student"]["label"] for variant in results["variants"])
    study = results["study"]
    lines = [
        f"{study['title']}: {', '.join(students)} on {settings['dataset']}, test part, mean of "
        f"{seed_count(results['variants'])}; change (with its 95 % interval over resampled "
        f"users) and p-values against {study['versus']}, over users, Holm-corrected; seconds of "
        "training without the validations, of the median epoch and of all until the best.",
        "",
        "| variant | Recall@10 | NDCG@10 | change of NDCG@10 | p, t-test | p, Wilcoxon | "
        "validation NDCG@10 | best epoch | an epoch | to the best epoch | parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    given = (*untrained(results).values(), *teachers_in_order(results).values())
    lines += [_markdown_given(model) for model in given]
    lines += [_markdown_row(variant, timing) for variant in results["variants"]]
    lines += [*choice_lines(results), *model_lines(results), *start_lines(results)]
    lines += [*masked_lines(results), *list_lines(results)]
    return "\n".join(lines) + "\n"


def with_interval(against: Comparison) -> str:
    """A change, and its interval where one is known."""
    ends = against.get("interval")
    return percent(against["change"]) + (
        f" ({percent(ends[0])} … {percent(ends[1])})" if ends else ""
    )


def _markdown_given(model: TeacherResult) -> str:
    shown = [decimals(model["test"][metric]) for metric in KEY_METRICS]
    validation = decimals(model["validation"][KEY_METRIC])
    cells = [model["label"], *shown, "", "", "", validation, *[""] * 4]
    return f"| {' | '.join(cells)} |"


def _markdown_row(variant: VariantResult, timing: Timing) -> str:
    cells = [variant["label"], *(decimals(variant["test"][metric]) for metric in KEY_METRICS)]
    against = (variant["against"] or {}).get(KEY_METRIC)
    if against is not None:
        cells += [with_interval(against), p_value(against["t_p_holm"])]
        cells += [p_value(against["wilcoxon_p_holm"])]
    else:
        cells += ["", "", ""]
    cells += [decimals(variant["validation"][KEY_METRIC]), f"{variant['best_epoch']:.0f}"]
    for key in ("seconds_per_epoch", "seconds_to_best"):
        cells.append(seconds(lookup(timing, "variants", variant["name"], key)))
    cells.append(count(variant["parameters"]))
    return f"| {' | '.join(cells)} |"
