"""What models reach of which nothing is trained: rows of every table.

Popularity, popularity of late where there is a clock, and the neighbourhood. They are measured once
and kept in the cache, whether or not they teach.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.record import describe_teacher
from experiments.stages.rows import Row, rank_row, too_many
from experiments.stages.teachers import ReadyTeacher, prepare_teachers
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from teachers_torch.config import NeighboursConfig, TextConfig
from teachers_torch.registry import UNTRAINED, identity, kind


class Untrained(NamedTuple):
    """One such model.

    Attributes:
        entry: the fields of its entry in a record, as a teacher's.
        row: the model's test ranks and metrics.
    """

    entry: dict[str, Any]
    row: Row


def measure_untrained(
    task: Task, settings: Settings, ready: Mapping[str, ReadyTeacher], reporter: Reporter
) -> dict[str, Untrained]:
    """Name → what it reaches.

    The neighbourhood reads texts where a teacher of the run does: nobody has asked for them to be
    encoded otherwise.

    Args:
        task: data and split.
        settings: the run's settings.
        ready: key → a teacher that is at hand.
        reporter: says what is left out.
    """
    if why := too_many(task):
        reporter.say(f"Untrained models: not measured, {why}")
        return {}
    if not any(TextConfig in kind(name).reads for name in settings.run.teachers):
        of = {**settings.teachers.of, NeighboursConfig: NeighboursConfig(texts=False)}
        teachers = dataclasses.replace(settings.teachers, of=of)
        settings = dataclasses.replace(settings, teachers=teachers)
    found = {name: _measured(name, task, settings, ready, reporter) for name in UNTRAINED}
    return {name: each for name, each in found.items() if each}


def _measured(
    name: str,
    task: Task,
    settings: Settings,
    ready: Mapping[str, ReadyTeacher],
    reporter: Reporter,
) -> Untrained | None:
    """A model, out of the cache or measured; None where the data lack what it needs."""
    try:
        kind(name).check(task, settings.teachers, Cache(Path(settings.run.cache_dir)))
    except UserError:
        return None
    found = identity(name, task, settings.teachers, settings.run.teacher_seed)
    try:
        made = ready.get(found.key)
        if made is None:
            (made,) = prepare_teachers(
                [found], task, settings, reporter, lambda event: None, teaching=False
            )
        entry = describe_teacher(kind(name).label, made.card)
        return Untrained(entry, rank_row(made, task))
    except (UserError, ValueError) as error:
        # The students are trained: no row of a table is worth losing them.
        reporter.say(f"{kind(name).label}: not measured: {error}")
        return None
