"""Settings tried and compared on validation; the test part is never ranked for a student.

Every combination of `--grid` is run with every seed, or settings are drawn from `--space`; what is
finished is not run again. The grid needs no Optuna: its values are any texts, in a fixed order.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.cli.command import Call
from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.cli.options import SearchConfig
from experiments.cli.settings import Settings, check_settings, settings_from
from experiments.cli.unread import warnings
from experiments.reporting.wording import MISSING
from experiments.runs.finished import finish_run, never, ready_teachers
from experiments.runs.optimise import STOPPED, Row, Search, Stopped, Watch, optimise, require_optuna
from experiments.runs.plan import PlannedRun, check_runs, plan_runs, shared_place
from experiments.runs.sheets import show_sheets
from experiments.runs.space import (
    Axis,
    as_flags,
    combinations,
    corners,
    parse_space,
    tried_names,
)
from experiments.stages.data import load_task
from experiments.stages.identity import digest
from experiments.stages.record import Record
from experiments.stages.students import RunPlace, logger, unwatched
from experiments.stages.students import Watch as OnEpoch
from experiments.stages.teachers import ReadyTeacher, prepare_teachers
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json, write_text
from prmkd_jax.common.places import require_place
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import KEY_METRICS, SELECTION_METRIC
from prmkd_jax.students.registry import result_name

TRIALS = "trials"
"""Folder of finished trials, next to `--output_dir`: all searches share it."""


def run(call: Call) -> None:
    """Runs all trials and writes one table, as JSON and as Markdown."""
    search = call.config(SearchConfig)
    output = Path(call.settings.run.output_dir)
    require_place(output, "--output_dir")
    if search.space:
        require_optuna()
    tasks: dict[DataConfig, Task] = {}

    def load(settings: Settings) -> Task:
        if settings.data not in tasks:
            tasks[settings.data] = load_task(settings)
        return tasks[settings.data]

    trials = parse_trials(call)
    for line in _unread(call, trials):
        call.reporter.warn(line)
    plans = dict(zip(trials, plan_runs(trials.values(), rank_test=False, load=load), strict=True))
    check_runs(plans.values())
    show_sheets(plans.values(), call.reporter)
    if search.space:
        name, rows = _drawn(call, load)
        told: dict[str, Any] = {"space": search.space, "search_seed": search.search_seed}
    else:
        rows = _all(call, plans)
        name = digest({"grid": search.grid, "model": search.model, "rows": rows})
        told = {"grid": search.grid}
    table = markdown(rows)
    write_json(output / f"search-{name}.json", {**told, "rows": rows})
    write_text(output / f"search-{name}.md", table)
    call.reporter.say(table)
    call.reporter.say(f"Written to {output / f'search-{name}.json'} and .md")


def _unread(call: Call, trials: Mapping[str, Mapping[type, object]]) -> list[str]:
    """Settings that are tried and that no trial reads, and flags of the other way to search."""
    search = call.config(SearchConfig)
    tried = frozenset(axis.name for axis in _space(call)) or tried_names(search.grid)
    runs = [settings_from(configs) for configs in trials.values()]
    own = sorted({"trials", "search_seed"} & call.explicit) if not search.space else []
    return [
        *(f"--{name} has no effect: there is no --space" for name in own),
        *warnings(runs, tried, "search", frozenset()),
    ]


def _all(call: Call, plans: Mapping[str, PlannedRun]) -> list[Row]:
    """The rows of a grid."""
    rows: list[Row] = []
    for setting, plan in plans.items():
        call.reporter.say(f"Trial: {setting}")
        tried = _try(plan, call.config(SearchConfig).model, _trials(call), call.reporter)
        rows += [{**row, "setting": setting} for row in tried]
    return rows


def _drawn(call: Call, load: Callable[[Settings], Task]) -> tuple[str, list[Row]]:
    """The name and the rows of a search by Optuna."""
    search = call.config(SearchConfig)

    def plan(changes: Sequence[str]) -> PlannedRun:
        [found] = plan_runs([_parsed(call, changes)], rank_test=False, load=load)
        return found

    def attempt(setting: dict[str, str], watch: Watch) -> Row:
        try:
            drawn = plan(as_flags(setting))
            check_settings(drawn.settings)
        except UserError as error:
            # Inputs were checked with the ends: these values don't fit together.
            call.reporter.say(str(error))
            return {"model": MISSING, "seeds": MISSING, "stopped": "impossible"}
        return _attempt(drawn, _trials(call), call.reporter, watch)

    asked = {"space": search.space, "model": search.model, "seed": search.search_seed}
    given = plan([])
    name = digest({**asked, "seeds": given.seeds, "identity": given.identity})
    output = Path(call.settings.run.output_dir)
    journal = output / f"search-{name}.journal"
    made = Search(_space(call), search.trials, search.search_seed, journal, call.reporter.say)
    return name, optimise(made, attempt)


def _attempt(plan: PlannedRun, folder: Path, reporter: Reporter, watch: Watch) -> Row:
    """One drawn setting's row."""

    def on_epoch(record: Mapping[str, Any]) -> None:
        watch(record["epoch"], record["validation"][SELECTION_METRIC])

    try:
        record = _finish(plan, shared_place(folder, plan), reporter, on_epoch, _gives_up)
    except (Stopped, UserError) as error:
        why = _why_given_up(error)
        if not why:
            raise
        if why == "diverged":
            reporter.say(str(error))
        return {"model": _student_name(plan), "seeds": _seeds(plan), "stopped": why}
    first = record.of_seeds(plan.seeds[:1]).seeds[0]
    epochs = {one["epoch"]: one["validation"][SELECTION_METRIC] for one in first.history}
    return {**_student_row(plan, record), "epochs": epochs}


def _why_given_up(error: Exception) -> str:
    """Why a drawn trial that this error has ended is at its end; "" where it can go on."""
    if isinstance(error, Stopped):
        return "early"
    # Whoever draws settings draws some that can't be learned with.
    return "diverged" if isinstance(error.__cause__, FloatingPointError) else ""


def _gives_up(error: Exception) -> bool:
    return bool(_why_given_up(error))


def variations(call: Call) -> list[Settings]:
    """The settings of every trial; of a space, those with its ends and values.

    Raises:
        UserError: a mistake in `--grid` or `--space`, or in any trial's settings.
    """
    return [settings_from(configs) for configs in parse_trials(call).values()]


def parse_trials(call: Call) -> dict[str, Mapping[type, object]]:
    """What each trial changes, in words → its configurations; as `variations`.

    Raises:
        UserError: as `variations`.
    """
    search = call.config(SearchConfig)
    for name in ("grid", "space"):
        found = getattr(search, name)
        if name in call.explicit and not found.replace(";", "").strip():
            raise UserError(f"--{name}: found {found!r}, expected name=value,value")
    drawn = map(as_flags, corners(_space(call)))
    several = drawn if search.space else combinations(search.grid)
    return {
        " ".join(change.removeprefix("--") for change in changes) or "as given": _parsed(
            call, changes
        )
        for changes in several
    }


def _space(call: Call) -> tuple[Axis, ...]:
    return parse_space(call.config(SearchConfig).space, call.command.groups)


def _parsed(call: Call, changes: Sequence[str]) -> Mapping[type, object]:
    """The configurations of one trial."""
    alone = ["--teachers="] if call.config(SearchConfig).model == "base" else []
    return parse([*call.argv, *changes, *alone], call.command.groups).configs


def _trials(call: Call) -> Path:
    return Path(call.settings.run.output_dir).parent / TRIALS


def markdown(rows: Sequence[Row]) -> str:
    """The trials as a Markdown table, the best validation NDCG@10 first, stopped ones last."""
    lines = ["| model | setting | seeds | validation Recall@10 | validation NDCG@10 | best epoch |"]
    lines.append("|---|---|---|---|---|---|")
    order = sorted(rows, key=lambda row: -row["validation"].get(SELECTION_METRIC, 0.0))
    for row in sorted(order, key=lambda row: "stopped" in row):
        recall, ndcg = (
            f"{row['validation'][metric]:.4f}" if metric in row["validation"] else MISSING
            for metric in KEY_METRICS
        )
        epoch = MISSING if row["best_epoch"] is None else f"{row['best_epoch']:.0f}"
        setting = (
            f"{row['setting']} ({STOPPED[row['stopped']]})"
            if "stopped" in row
            else (row["setting"])
        )
        lines.append(
            f"| {row['model']} | {setting} | {row['seeds']} | {recall} | {ndcg} | {epoch} |"
        )
    return "\n".join(lines) + "\n"


def _try(plan: PlannedRun, model: str, folder: Path, reporter: Reporter) -> list[Row]:
    """One combination's rows: of the student, or one a teacher."""
    settings = plan.settings
    if model == "teachers":
        log = logger(folder / "log.jsonl")
        teachers = prepare_teachers(plan.teachers, plan.task, settings, reporter, log)
        seed = str(settings.run.teacher_seed)
        return [_row(teacher.source.name, seed, [teacher.card]) for teacher in teachers]
    record = _finish(plan, shared_place(folder, plan), reporter)
    return [_student_row(plan, record)]


def _finish(
    plan: PlannedRun,
    place: RunPlace,
    reporter: Reporter,
    on_epoch: OnEpoch = unwatched,
    gives_up: Callable[[Exception], bool] = never,
) -> Record:
    """Trains the student, unless it is there."""
    ready: dict[str, ReadyTeacher] = {}
    ready_teachers(plan, place, reporter, ready)
    return finish_run(plan, place, ready, reporter, on_epoch, gives_up).record


def _student_row(plan: PlannedRun, record: Record) -> Row:
    return _row(_student_name(plan), _seeds(plan), [vars(result) for result in record.seeds])


def _student_name(plan: PlannedRun) -> str:
    taught = plan.settings.distill.method if plan.settings.run.teachers else "base"
    return f"{result_name(plan.settings.student)} {taught}"


def _seeds(plan: PlannedRun) -> str:
    return ",".join(map(str, plan.seeds))


def _row(model: str, seeds: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    return {
        "model": model,
        "seeds": seeds,
        "validation": {
            metric: statistics.fmean(run["validation"][metric] for run in runs)
            for metric in KEY_METRICS
        },
        "best_epoch": statistics.fmean(run["best_epoch"] for run in runs),
    }
