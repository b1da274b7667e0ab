"""Test ranks of a table's rows that no seed trains: the teachers, and the untrained models."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from bridge.teacher_vectors import Vectors, has_vectors
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.teachers import ReadyTeacher, prepare_teachers, vectors_folder
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from teachers_torch.config import CARD
from teachers_torch.registry import kind
from teachers_torch.teacher import Identity
from teachers_torch.tuning import rank_all, rank_scores

MOST_SCORES = 10**9
"""Users times items beyond which a row would take too long: nobody asked for it."""


def teacher_ranks(
    asked: Mapping[str, tuple[Identity, Settings]],
    task: Task,
    ready: Mapping[str, ReadyTeacher],
    reporter: Reporter,
) -> dict[str, Float64[np.ndarray, " instances"]]:
    """Name → ranks of the test part's targets, by what the students are taught.

    Vectors on disk are float16, so a metric may differ in its last digit from the card's.

    Args:
        asked: name → the teacher, and the settings that it was made with.
        task: data and split.
        ready: key → a teacher that is at hand; others are read from the cache, and left out if they
            are no longer there.
        reporter: says what is left out.
    """
    scores = len(task.split.test) * task.dataset.num_items
    if asked and scores > MOST_SCORES:
        reporter.say(f"Teachers: not compared, {scores:,} scores are more than {MOST_SCORES:,}")
        return {}
    ranks = {}
    for name, (found, settings) in asked.items():
        try:
            teacher = ready.get(found.key) or _from_cache(found, task, settings, reporter)
            ranks[name] = test_ranks(teacher, task)
        except (UserError, ValueError) as error:
            # The students are trained: no comparison is worth losing them.
            reporter.say(f"{kind(name).label}: not compared: {error}")
    return ranks


def test_ranks(teacher: ReadyTeacher, task: Task) -> Float64[np.ndarray, " instances"]:
    """Ranks of the test part's targets among all items, history not masked.

    Raises:
        ValueError: a score is not finite.
    """
    instances, source = task.split.test, teacher.source
    targets = task.targets(instances)
    if isinstance(source, Vectors):
        users = source.instances[instances].astype(np.float32)
        return rank_all(users, source.items.astype(np.float32), targets)
    return rank_scores(source, instances, targets, task.dataset.num_items)


def _from_cache(
    found: Identity, task: Task, settings: Settings, reporter: Reporter
) -> ReadyTeacher:
    """A teacher that was made before.

    Raises:
        UserError: it isn't in the cache, or damaged there.
    """
    folder = vectors_folder(Cache(Path(settings.run.cache_dir)), found)
    if not has_vectors(folder) and not (folder / CARD).is_file():
        raise UserError(f"found none in {folder}, expected the teacher of a finished run")
    return prepare_teachers([found], task, settings, reporter, lambda event: None)[0]
