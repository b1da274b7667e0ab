"""Runs that are to be trained: what each depends on, read and checked before the first begins."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.student_weights import StudentStart
from experiments.cli.console import Reporter
from experiments.cli.flags import as_dict
from experiments.cli.settings import GROUPS, RunConfig, Settings, settings_from
from experiments.stages.data import load_task
from experiments.stages.exports import student_start
from experiments.stages.identity import digest, run_identity
from experiments.stages.metrics_log import check_log_to
from experiments.stages.starts import check_item_start, item_start
from experiments.stages.students import (
    RunPlace,
    Training,
    check_loss,
    make_bank,
    plain_run,
    student_facts,
)
from experiments.stages.teachers import ReadyTeacher, check_teachers, teacher_identities
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.task import Task
from prmkd_jax.students.facts import Facts
from prmkd_jax.train.devices import asked_mesh
from prmkd_jax.train.inputs import training_batches
from prmkd_jax.train.launch import asked
from prmkd_jax.train.loop import mesh_of
from teachers_torch.teacher import Identity


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run with all that it reads, checked; only its training is left to do.

    Attributes:
        settings: everything that was asked for.
        flags: every flag's value, as JSON.
        task: data and split.
        facts: the part of the task that the student may know.
        start: the student's first parameters; None draws them from each seed.
        teachers: the identities of its teachers.
        identity: all that its numbers depend on, but for the seeds.
        rank_test: False where it only serves to choose a setting.
    """

    settings: Settings
    flags: Mapping[str, Any]
    task: Task
    facts: Facts
    start: StudentStart | None
    teachers: tuple[Identity, ...]
    identity: Mapping[str, Any]
    rank_test: bool

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that were asked for."""
        return self.settings.run.seeds


def plan_runs(
    several: Iterable[Mapping[type, object]],
    *,
    rank_test: bool = True,
    exports: bool = False,
    load: Callable[[Settings], Task] = load_task,
) -> list[PlannedRun]:
    """Reads what every run depends on, and finds mistakes in any before the first is trained.

    Args:
        several: configurations as parsed.
        rank_test: False where the runs only serve to choose a setting.
        exports: whether the runs leave students.
        load: gives the task that the settings name.

    Raises:
        UserError: on bad data or inputs; or students are asked for where none are left.
    """
    tasks: dict[DataConfig, Task] = {}

    def task_of(settings: Settings) -> Task:
        if settings.data not in tasks:
            tasks[settings.data] = load(settings)
        return tasks[settings.data]

    return [_plan(configs, task_of, rank_test, exports) for configs in several]


def _plan(
    configs: Mapping[type, object],
    task_of: Callable[[Settings], Task],
    rank_test: bool,
    exports: bool,
) -> PlannedRun:
    settings = settings_from(configs)
    check_log_to(settings.run.log_to)
    if settings.run.export_recbole and not exports:
        raise UserError(
            "--export_recbole: found True, expected False: only the command train leaves students"
        )
    task = task_of(settings)
    facts = student_facts(task, settings)
    check_loss(task, facts, settings, rank_test=rank_test)
    if asked_mesh() is not None or asked() is not None:
        run = plain_run(task, facts, settings, settings.run.seeds[0], Path())
        # Before teachers are tuned for hours, a mesh that can't be.
        mesh_of(run, training_batches(run))
    start = student_start(settings, task, facts)
    teachers = teacher_identities(task, settings)
    # Who repeats the run by its flagfile doesn't want to replace another one by it.
    kept = {**configs, RunConfig: dataclasses.replace(settings.run, overwrite=False)}
    begun_from = None if start is None else start.digest
    identity = run_identity(configs, settings, task, teachers, begun_from) | {"test": rank_test}
    flags = as_dict(GROUPS, kept)
    return PlannedRun(settings, flags, task, facts, start, teachers, identity, rank_test)


def check_runs(plans: Iterable[PlannedRun]) -> None:
    """Checks the teachers of every run, each teacher once, and what item tables begin from.

    Raises:
        UserError: a teacher lacks its inputs, they are damaged, or its settings can't be; or
            `--item_init` names texts that aren't there.
    """
    checked: set[str] = set()
    for plan in plans:
        check_teachers(plan.teachers, plan.task, plan.settings, checked)
        check_item_start(plan.settings, plan.task)


def training_of(plan: PlannedRun, teachers: Sequence[ReadyTeacher], reporter: Reporter) -> Training:
    """What all seeds of a run are trained with.

    Args:
        plan: the run.
        teachers: the run's teachers, in its order.
        reporter: shows progress where texts are encoded.

    Raises:
        UserError: as `item_start`.
    """
    return Training(
        task=plan.task,
        facts=plan.facts,
        settings=plan.settings,
        bank=make_bank(teachers, plan.settings, plan.task.dataset.num_items),
        start=None if plan.start is None else plan.start.params,
        items=item_start(plan.settings, plan.task, teachers, reporter),
        flags=plan.flags,
        rank_test=plan.rank_test,
    )


def shared_place(folder: Path, plan: PlannedRun) -> RunPlace:
    """Where a run is kept that several commands may ask for.

    Args:
        folder: holds all such runs.
        plan: the run.
    """
    own = folder / digest(plan.identity)
    return RunPlace(own, own / "log.jsonl", own / "checkpoints", shared=True)
