"""What models reach of which nothing is trained: rows of every table.

Popularity, popularity of late where there is a clock, and the neighbourhood. They are measured once
and kept in the cache, whether or not they teach.
"""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.record import describe_teacher
from experiments.stages.teachers import prepare_teachers, vectors_folder
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from teachers_torch.config import CARD, NeighboursConfig, TextConfig
from teachers_torch.registry import UNTRAINED, identity, kind
from teachers_torch.store import read_card

MOST_SCORES = 10**9
"""Users times items beyond which they would take too long: nobody asked for them."""


def measure_untrained(
    task: Task, settings: Settings, reporter: Reporter
) -> dict[str, dict[str, Any]]:
    """Name → its entry, as a teacher's in a record.

    The neighbourhood reads texts where a teacher of the run does: nobody has asked for them to be
    encoded otherwise.

    Args:
        task: data and split.
        settings: the run's settings.
        reporter: says what is left out.

    Raises:
        UserError: a cached card is damaged.
    """
    scores = (len(task.split.validation) + len(task.split.test)) * task.dataset.num_items
    if scores > MOST_SCORES:
        reporter.say(
            f"Untrained models: not measured, {scores:,} scores are more than {MOST_SCORES:,}"
        )
        return {}
    if not any(TextConfig in kind(name).reads for name in settings.run.teachers):
        of = {**settings.teachers.of, NeighboursConfig: NeighboursConfig(texts=False)}
        teachers = dataclasses.replace(settings.teachers, of=of)
        settings = dataclasses.replace(settings, teachers=teachers)
    cards = {name: _card(name, task, settings, reporter) for name in UNTRAINED}
    return {name: describe_teacher(kind(name).label, card) for name, card in cards.items() if card}


def _card(name: str, task: Task, settings: Settings, reporter: Reporter) -> dict[str, Any] | None:
    """A model's card, out of the cache or measured; None where the data lack what it needs."""
    cache = Cache(Path(settings.run.cache_dir))
    try:
        kind(name).check(task, settings.teachers, cache)
    except UserError:
        return None
    found = identity(name, task, settings.teachers, settings.run.teacher_seed)
    folder = vectors_folder(cache, found)
    if (folder / CARD).is_file():
        return dataclasses.asdict(read_card(folder))
    try:
        (ready,) = prepare_teachers([found], task, settings, reporter, lambda event: None)
    except UserError as error:  # the students are trained: no row of a table is worth losing them
        reporter.say(f"{kind(name).label}: not measured: {error}")
        return None
    return ready.card
