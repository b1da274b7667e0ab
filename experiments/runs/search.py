"""Settings tried and compared on validation; the test part is never ranked for a student.

Every combination of the values is run with every seed, and what is finished is not run again.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli.command import Call
from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.options import SearchConfig
from experiments.cli.settings import Settings, settings_from
from experiments.runs.finished import finish_run, ready_teachers
from experiments.runs.plan import PlannedRun, check_runs, plan_runs, shared_place
from experiments.runs.sheets import show_sheets
from experiments.stages.identity import digest
from experiments.stages.students import logger
from experiments.stages.teachers import ReadyTeacher, prepare_teachers
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import require_place, write_json, write_text

NO_SETTINGS = frozenset(
    ("flagfile", "help", "grid", "model", "output_dir", "cache_dir", "overwrite", "log_to")
)
METRICS = ("Recall@10", "NDCG@10")
MOST_TRIALS = 10_000
TRIALS = "trials"
"""Folder of finished trials, next to `--output_dir`: all searches share it."""


def run(call: Call) -> None:
    """Runs all trials and writes one table, as JSON and as Markdown."""
    search = call.config(SearchConfig)
    output = Path(call.settings.run.output_dir)
    require_place(output, "--output_dir")
    trials = parse_trials(call)
    plans = dict(zip(trials, plan_runs(trials.values(), rank_test=False), strict=True))
    check_runs(plans.values())
    show_sheets(plans.values(), call.reporter)
    rows = []
    for setting, plan in plans.items():
        call.reporter.say(f"Trial: {setting}")
        tried = _try(plan, search.model, output.parent / TRIALS, call.reporter)
        rows += [{**row, "setting": setting} for row in tried]
    name = digest({"grid": search.grid, "model": search.model, "rows": rows})
    table = markdown(rows)
    write_json(output / f"search-{name}.json", {"grid": search.grid, "rows": rows})
    write_text(output / f"search-{name}.md", table)
    call.reporter.say(table)
    call.reporter.say(f"Written to {output / f'search-{name}.json'} and .md")


def variations(call: Call) -> list[Settings]:
    """The settings of every trial.

    Raises:
        UserError: a mistake in `--grid` or in any trial's settings.
    """
    return [settings_from(configs) for configs in parse_trials(call).values()]


def parse_trials(call: Call) -> dict[str, Mapping[type, object]]:
    """What each trial changes, in words → its configurations.

    Raises:
        UserError: as `variations`.
    """
    search = call.config(SearchConfig)
    if "grid" in call.explicit and not search.grid.replace(";", "").strip():
        raise UserError(f"--grid: found {search.grid!r}, expected name=value,value")
    alone = ["--teachers="] if search.model == "base" else []
    return {
        " ".join(change.removeprefix("--") for change in changes) or "as given": parse(
            [*call.argv, *changes, *alone], call.command.groups
        ).configs
        for changes in combinations(search.grid)
    }


def combinations(grid: str) -> Iterator[list[str]]:
    """Every combination of the values as command-line flags.

    >>> list(combinations("dropout=0.1,0.5; kl=js"))
    [['--dropout=0.1', '--kl=js'], ['--dropout=0.5', '--kl=js']]

    Raises:
        UserError: if a part is not of the form name=value,value, tries something twice, or what
            is no setting of a trial.
    """
    options: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in grid.split(";"))):
        name, equals, values = part.partition("=")
        if not equals or not values or not name.strip():
            raise UserError(f"--grid: found {part!r}, expected name=value,value")
        name, tried = name.strip().removeprefix("--"), [one.strip() for one in values.split(",")]
        if name in options or len({*tried}) < len(tried):
            raise UserError(f"--grid: found {part!r}, expected each name and each value once")
        if name in NO_SETTINGS:
            raise UserError(
                f"--grid: found {name!r}, which is no setting of a trial, expected one that is"
            )
        options[name] = [f"--{name}={value}" for value in tried]
    trials = math.prod(map(len, options.values()))
    if trials > MOST_TRIALS:
        raise UserError(f"--grid: found {trials} combinations, expected at most {MOST_TRIALS}")
    return (list(chosen) for chosen in itertools.product(*options.values()))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The trials as a Markdown table, the best validation NDCG@10 first."""
    lines = ["| model | setting | seeds | validation Recall@10 | validation NDCG@10 | best epoch |"]
    lines.append("|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row["validation"]["NDCG@10"]):
        recall, ndcg = (f"{row['validation'][metric]:.4f}" for metric in METRICS)
        lines.append(
            f"| {row['model']} | {row['setting']} | {row['seeds']} | {recall} | {ndcg} "
            f"| {row['best_epoch']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _try(plan: PlannedRun, model: str, folder: Path, reporter: Reporter) -> list[dict[str, Any]]:
    """One combination's rows: of the student, or one a teacher."""
    settings = plan.settings
    if model == "teachers":
        log = logger(folder / "log.jsonl")
        teachers = prepare_teachers(plan.teachers, plan.task, settings, reporter, log)
        seed = str(settings.run.teacher_seed)
        return [_row(teacher.source.name, seed, [teacher.card]) for teacher in teachers]
    ready: dict[str, ReadyTeacher] = {}
    place = shared_place(folder, plan)
    ready_teachers(plan, place, reporter, ready)
    record = finish_run(plan, place, ready, reporter).record
    taught = settings.distill.method if settings.run.teachers else "base"
    name = f"{record.student['name']} {taught}"
    seeds = ",".join(map(str, plan.seeds))
    return [_row(name, seeds, [vars(result) for result in record.seeds])]


def _row(model: str, seeds: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "model": model,
        "seeds": seeds,
        "validation": {
            metric: statistics.fmean(run["validation"][metric] for run in runs)
            for metric in METRICS
        },
        "best_epoch": statistics.fmean(run["best_epoch"] for run in runs),
    }
