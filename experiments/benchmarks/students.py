"""What every student's step, epoch and ranking take: `bench --suite=students`.

Alone and distilled, with the random vectors of as many teachers as `--teachers` names: times don't
depend on values. The settings are those of the flags for all students but for their names.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge.teacher_bank import TeacherBank
from experiments.benchmarks.distill import random_vectors
from experiments.benchmarks.floors import Speeds, machine_speeds, xla_work
from experiments.benchmarks.steps import RunTimes, ranking_seconds, time_run
from experiments.benchmarks.timing import BenchRow, once, seconds_of
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.students.config import BUILT_IN


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """Each built-in student's plain and distilled step, its epochs, its ranking, its floors.

    Raises:
        UserError: there is no teacher.
    """
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    task = load_task(settings)
    speeds = machine_speeds()
    rows = [once(each.name, each.value, each.unit) for each in speeds.measurements()]
    count = len(settings.run.teachers)
    vectors = [random_vectors(task, k, settings.student.hidden_size) for k in range(count)]
    bank = TeacherBank(vectors, [1.0] * count, "jax")
    for name in BUILT_IN:
        student = dataclasses.replace(settings.student, student=name)
        own = dataclasses.replace(settings, student=student)
        found = list(_of_student(task, own, bank, config.repeats, speeds))
        say("\n".join(f"{row.name}: {row.value:.4g} {row.unit}".rstrip() for row in found))
        rows += found
    return rows


def _of_student(
    task: Task, settings: Settings, bank: TeacherBank, repeats: int, speeds: Speeds
) -> Iterator[BenchRow]:
    name = settings.student.student
    plain = plain_run(task, student_facts(task, settings), settings, settings.run.seeds[0], Path())
    taught = dataclasses.replace(plain, distill=settings.distill, teachers=bank, threshold=1.0)
    alone, distilled = (
        time_run(f"{name} {kind}", run, repeats)
        for kind, run in (("plain", plain), ("distilled", taught))
    )
    for timed in (alone, distilled):
        yield from _rows(timed, speeds)
    yield once(f"{name} distilled / plain step", distilled.step / alone.step, "")
    yield once(f"{name} ranking of all users", ranking_seconds(plain), "s")


def _rows(timed: RunTimes, speeds: Speeds) -> Iterator[BenchRow]:
    yield seconds_of(f"{timed.name} step", timed.of_steps.steps)
    for each in xla_work(timed.of_steps.compiled).measurements(f"{timed.name} step", speeds):
        if each.unit == "s":
            yield once(*each)
    yield once(f"{timed.name} input", timed.of_steps.input, "s")
    yield once(f"{timed.name} epoch", timed.epoch, "s")
    yield once(f"{timed.name} compilation", timed.of_steps.compile, "s")
