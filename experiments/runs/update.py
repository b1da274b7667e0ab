"""The body of `update`: yesterday's student, taken to today's data, next to one from scratch."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bridge.student_weights import StudentStart
from bridge.yesterday import Yesterday, read_yesterday
from experiments.cli.command import Call
from experiments.cli.settings import Settings, read_paths
from experiments.reporting.tables import print_files
from experiments.reporting.update import MODELS, update_table
from experiments.runs.finished import FinishedRun, finish_run, masked_files, run_files
from experiments.runs.plan import PlannedRun, check_runs, plan_runs
from experiments.stages.data import load_task
from experiments.stages.environment import describe_environment
from experiments.stages.exports import student_file_names
from experiments.stages.new_rows import check_rows, item_vectors
from experiments.stages.record import SCHEMA_VERSION, describe_data, describe_split, read_versioned
from experiments.stages.run_folder import claimed, examine, finish
from experiments.stages.seconds import describe_timing
from experiments.stages.sheets import show_sheet
from experiments.stages.students import RunPlace, logger, run_name, student_facts
from experiments.stages.teachers import ReadyTeacher, prepare_teachers
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_text
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.data.subset import with_items
from prmkd_jax.data.task import Task, make_task
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.serve.config import UpdateConfig
from prmkd_jax.serve.histories import instance_targets
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.renew import Changes, Mapped, changes, map_items, only_items, params_for
from prmkd_jax.students.config import RANDOM, StudentConfig
from prmkd_jax.students.registry import label
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.refit import refit_folder
from teachers_torch.items.inputs import texts_identity

RESULT, TABLE, LOG = "update.json", "update.md", "log.jsonl"
UPDATED, SCRATCH = "updated", "scratch"


@dataclasses.dataclass(frozen=True)
class _Update:
    """All that an update reads, checked.

    Attributes:
        options: the options of the update itself.
        yesterday: the student that the update begins from.
        changes: since then.
        plans: the runs that are trained, by name.
    """

    options: UpdateConfig
    yesterday: Yesterday
    changes: Changes
    plans: Mapping[str, PlannedRun]

    @property
    def plan(self) -> PlannedRun:
        """The updated student's."""
        return self.plans[UPDATED]


def run(call: Call) -> None:
    """Updates a student; leaves it exported, next to `update.json` and `update.md`.

    A stopped update goes on; of a finished one the table is shown again. Everything is checked
    before anything is removed or written.

    Raises:
        UserError: on bad data or inputs, a student that doesn't fit, or another run's folder.
    """
    reporter = call.reporter
    output = Path(call.settings.run.output_dir)
    update = _plan(call)
    for name in sorted({"max_epochs", "item_init"} & call.explicit):
        if not update.options.scratch:
            reporter.warn(f"--{name} has no effect: --noscratch trains nothing from scratch")
    show_sheet(update.plan.task, reporter)
    for line in _change_lines(update.changes):
        reporter.say(line)
    folder = examine(
        output,
        _identity(update),
        _files(update),
        # Only teachers that are tuned now are told there.
        optional=[LOG, *_masked_files(update)],
        overwrite=call.settings.run.overwrite,
        reads=read_paths(call.configs),
    )
    if folder.found == "finished":
        reporter.say(f"{output}: this update is finished; --output_dir=… makes another")
    else:
        check_runs(update.plans.values())
        with claimed(folder):
            result = _carry_out(call, update, output)
            write_sealed_json(output / RESULT, result)
            write_text(output / TABLE, update_table(result))
            finish(folder)
    reporter.console.print(update_table(read_versioned(output / RESULT)), markup=False)
    seeds = update.plan.seeds
    student = _place(output, UPDATED).students
    assert student is not None
    files = {
        "record": output / RESULT,
        "student": student / run_name(update.plan.settings, seeds[0]),
    }
    print_files(reporter.console, files)


def _plan(call: Call) -> _Update:
    options = call.config(UpdateConfig)
    settings = call.settings
    options.require()
    if settings.run.student_init:
        raise UserError("--init: found student, expected none: --from names where it begins")
    task = load_task(settings)
    facts = student_facts(task, settings)
    yesterday = read_yesterday(Path(options.from_), settings.student, facts, task.dataset)
    found = changes(yesterday.exported, task.dataset)
    if options.vanished == "keep" and found.vanished_items:
        task = _with_vanished(yesterday, found, task, settings)
        found = changes(yesterday.exported, task.dataset)
    if found.new_items:
        if len(found.kept_items) < 2 and options.rows_from != "mean":
            raise UserError(
                "--dataset: found one item that the student in --from knows, expected two or more "
                "to fit a map on, or --rows_from=mean"
            )
        check_rows(options.rows_from, task.dataset, settings)
    configs = {UPDATED: _shortened(call, options)}
    if options.scratch:
        configs[SCRATCH] = dict(call.configs)
    planned = plan_runs(configs.values(), exports=True, load=lambda _: task)
    plans = dict(zip(configs, planned, strict=True))
    # A look at the shapes now rather than after the teachers' hours.
    mapped = map_items(yesterday.exported, found, task.dataset, None)
    plan = plans[UPDATED]
    params_for(mapped.exported, settings.student, plan.facts, task.dataset, yesterday.source)
    begun = {"from": yesterday.digest, "vanished": options.vanished, "rows_from": options.rows_from}
    if found.new_items and options.rows_from == "texts":
        begun["texts"] = _texts(task, settings)
    plans[UPDATED] = dataclasses.replace(plan, identity={**plan.identity, "begun": begun})
    return _Update(options, yesterday, found, plans)


def _texts(task: Task, settings: Settings) -> str:
    """What the vectors of today's texts depend on."""
    return texts_identity(task.dataset, settings.teachers.text)


def _shortened(call: Call, options: UpdateConfig) -> dict[type, object]:
    """The settings of the student that goes on: fewer epochs, and item tables that are there.

    Raises:
        UserError: a curriculum would end after these epochs.
    """
    train = call.config(TrainConfig)
    student = call.config(StudentConfig)
    if train.curriculum_epochs > options.update_epochs:
        raise UserError(
            f"--curriculum_epochs: found {train.curriculum_epochs}, expected at most "
            f"--update_epochs={options.update_epochs}"
        )
    train = dataclasses.replace(train, max_epochs=options.update_epochs)
    student = dataclasses.replace(student, item_init=RANDOM)
    return {**call.configs, TrainConfig: train, StudentConfig: student}


def _with_vanished(yesterday: Yesterday, found: Changes, task: Task, settings: Settings) -> Task:
    """Today's task with the vanished items as candidates."""
    exported = yesterday.exported
    titles = exported.titles or ("",) * len(exported.item_ids)
    title_of = dict(zip(exported.item_ids, titles, strict=True))
    ids = found.vanished_items
    dataset = with_items(task.dataset, ids, tuple(title_of[item] for item in ids))
    return make_task(dataset, settings.data.split, settings.data.cuts)


def _identity(update: _Update) -> dict[str, object]:
    identities = {}
    for name, plan in update.plans.items():
        settings = {**plan.identity["settings"], "seeds": list(plan.seeds)}
        identities[name] = {**plan.identity, "settings": settings}
    # By its content: where the student lies changes no number.
    own = dataclasses.asdict(update.options)
    del own["from_"]
    return {"settings": own, "begun_from": update.yesterday.digest, **identities}


def _place(output: Path, name: str) -> RunPlace:
    own = output / "runs" / name
    return RunPlace(own, own / LOG, own / "checkpoints", output / "students" / name)


def _files(update: _Update) -> list[str]:
    files = [RESULT, TABLE]
    for name, plan in update.plans.items():
        files += [f"runs/{name}/{file}" for file in (LOG, *run_files(plan))]
        for seed in plan.seeds:
            trained = run_name(plan.settings, seed)
            states = Path(f"runs/{name}/checkpoints/{trained}")
            files.append(f"{states}/")
            if plan.settings.train.refit:
                files.append(f"{refit_folder(states)}/")
            exported = student_file_names(plan.settings.run)
            files += [f"students/{name}/{trained}/{file}" for file in exported]
    return files


def _masked_files(update: _Update) -> list[str]:
    plans = update.plans.items()
    return [f"runs/{name}/{file}" for name, plan in plans for file in masked_files(plan)]


def _carry_out(call: Call, update: _Update, output: Path) -> dict[str, object]:
    """Teachers, the map, both trainings, and what they are worth."""
    plan = update.plan
    reporter = call.reporter
    log = logger(output / LOG)
    started = time.perf_counter()
    teachers = prepare_teachers(plan.teachers, plan.task, plan.settings, reporter, log)
    teacher_seconds = time.perf_counter() - started
    started = time.perf_counter()
    mapped = _mapped(update, teachers)
    params = params_for(
        mapped.exported, plan.settings.student, plan.facts, plan.task.dataset,
        update.yesterday.source,
    )  # fmt: skip
    map_seconds = time.perf_counter() - started
    begun = dataclasses.replace(plan, start=StudentStart(params, None, update.yesterday.digest))
    ready = {each.key: one for each, one in zip(plan.teachers, teachers, strict=True)}
    told = {"updated_from": _described(update, mapped)}
    runs: dict[str, FinishedRun] = {}
    for name, each in {**update.plans, UPDATED: begun}.items():
        most = each.settings.train.max_epochs
        reporter.say(f"{MODELS[name]}: at most {most} epoch{'s' if most > 1 else ''}")
        place = _place(output, name)
        if name == UPDATED:
            place = dataclasses.replace(place, told=told)
        runs[name] = finish_run(each, place, ready, reporter)
        if name == UPDATED and not any(seed.best_epoch for seed in runs[name].record.seeds):
            reporter.say(f"{MODELS[UPDATED]}: no epoch was better, so it is '{MODELS['mapped']}'")
    return {
        "schema_version": SCHEMA_VERSION,
        "student": label(plan.settings.student),
        "data": describe_data(plan.task),
        "split": describe_split(plan.task, plan.settings),
        **_described(update, mapped),
        "models": _models(update, mapped, runs, map_seconds),
        "teacher_seconds": teacher_seconds,
        "settings": {**plan.flags, **dataclasses.asdict(update.options)},
        "environment": describe_environment(),
    }


def _mapped(update: _Update, teachers: list[ReadyTeacher]) -> Mapped:
    plan = update.plan
    vectors = None
    if update.changes.new_items:
        source = update.options.rows_from
        vectors = item_vectors(source, plan.task.dataset, plan.settings, teachers)
        begun = plan.identity["begun"]
        if "texts" in begun and begun["texts"] != _texts(plan.task, plan.settings):
            raise UserError(
                "--rows_from: found texts with other files than when the command began, expected "
                "the same until the rows are made: give the command again"
            )
    return map_items(update.yesterday.exported, update.changes, plan.task.dataset, vectors)


def _described(update: _Update, mapped: Mapped) -> dict[str, object]:
    """What has changed and how rows were made, as JSON content."""
    found = update.changes
    options = update.options
    return {
        "from": {
            "digest": update.yesterday.digest,
            "dataset": update.yesterday.exported.card["dataset"],
        },
        "changes": {
            "kept_items": len(found.kept_items),
            "new_items": len(found.new_items),
            "vanished_items": len(found.vanished_items),
            "new_users": found.new_users,
            "vanished_users": found.vanished_users,
        },
        "map": {
            "rows_from": options.rows_from if found.new_items else None,
            **({} if mapped.map is None else mapped.map._asdict()),
        },
    }


def _models(
    update: _Update, mapped: Mapped, runs: Mapping[str, FinishedRun], map_seconds: float
) -> dict[str, object]:
    """Metrics on today's test part, on all targets and apart by whether yesterday knew them."""
    task = update.plan.task
    exported = update.yesterday.exported
    test = task.split.test
    asked = instance_targets(task.dataset, test)
    known = np.isin(np.array([row[0] for row in asked.targets]), np.array(exported.item_ids))
    ranks = {
        "yesterday": only_items(exported, update.changes.kept_items),
        "mapped": mapped.exported,
    }
    found: dict[str, Any] = {}
    for name, student in ranks.items():
        recommender = Recommender(student)
        got = recommender.ranks(asked.histories, asked.targets, users=asked.users)
        seconds = {"yesterday": 0.0, "mapped": map_seconds}[name]
        flat = np.array([row[0] for row in got])
        found[name] = {"label": MODELS[name], "seconds": seconds, **_parts([flat], known)}
    for name, finished in runs.items():
        timing = describe_timing(finished.record.seeds, finished.seconds)
        seconds = None if timing is None else timing["train_seconds"] + _validated(finished)
        if seconds is not None and name == UPDATED:
            seconds += map_seconds
        assert finished.ranks is not None
        found[name] = {
            "label": MODELS[name],
            "seconds": seconds,
            **_parts(list(finished.ranks), known),
        }
    return found


def _validated(finished: FinishedRun) -> float:
    """Seconds of a seed's validations, the mean over seeds."""
    taken = [sum(epoch["evaluate"] for epoch in seed) for seed in finished.seconds.values()]
    return float(np.mean(taken))


def _parts(seeds: list[np.ndarray], known: np.ndarray) -> dict[str, object]:
    """The mean over seeds of each metric: of all instances, of known and of new targets."""
    parts = {"test": np.ones_like(known), "known_targets": known, "new_targets": ~known}
    return {name: _mean(seeds, chosen) for name, chosen in parts.items()}


def _mean(seeds: list[np.ndarray], chosen: np.ndarray) -> dict[str, float] | None:
    if not chosen.any():
        return None
    each = [ranking_metrics(ranks[chosen]) for ranks in seeds]
    means = {name: float(np.mean([metrics[name] for metrics in each])) for name in each[0]}
    return {"instances": int(chosen.sum()), **means}


def _change_lines(found: Changes) -> list[str]:
    """What has changed, in words."""
    lines = [
        f"{len(found.kept_items):,} items that yesterday's student knows, {len(found.new_items):,} "
        f"new, {len(found.vanished_items):,} vanished"
    ]
    if found.new_users is not None:
        lines.append(
            f"{found.new_users:,} new users, {found.vanished_users:,} vanished users with a vector"
        )
    return lines
