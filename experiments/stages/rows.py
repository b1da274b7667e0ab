"""Ranks of a table's rows that no seed trains: the teachers, and the untrained models."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int

from bridge.teacher_vectors import Vectors, has_vectors
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.teachers import ReadyTeacher, prepare_teachers, vectors_folder
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import ranking_metrics
from teachers_torch.config import CARD
from teachers_torch.registry import kind
from teachers_torch.teacher import Identity, ScoreSource
from teachers_torch.tuning import rank_by_scores

MOST_SCORES = 10**9
"""Users times items beyond which a row would take too long: nobody asked for it."""


class Row(NamedTuple):
    """What a model without seeds reaches.

    Attributes:
        test: ranks of the test part's targets among all items, history not masked.
        test_masked: the same with the items of the history taken out, infinite where the target is
            one of them.
        metrics: metrics of `validation` and `test`, and of both `_masked`, where the items of the
            history are taken out of the ranking; as a student's.
    """

    test: Float64[np.ndarray, " instances"]
    test_masked: Float64[np.ndarray, " instances"]
    metrics: dict[str, dict[str, float]]


def too_many(task: Task) -> str | None:
    """Why rows are not ranked, if so."""
    split, most = task.split, f"{MOST_SCORES:,}"
    scores = (len(split.validation) + len(split.test)) * task.dataset.num_items
    return f"{scores:,} scores are more than {most}" if scores > MOST_SCORES else None


def rank_teachers(
    asked: Mapping[str, tuple[Identity, Settings]],
    task: Task,
    ready: Mapping[str, ReadyTeacher],
    reporter: Reporter,
) -> dict[str, Row]:
    """Name → what it reaches, ranked by what the students are taught.

    Vectors on disk are float16, so a metric may differ in its last digit from the card's.

    Args:
        asked: name → the teacher, and the settings that it was made with.
        task: data and split.
        ready: key → a teacher that is at hand; others are read from the cache, and left out if they
            are no longer there.
        reporter: says what is left out.
    """
    if asked and (why := too_many(task)):
        reporter.say(f"Teachers: not compared, {why}")
        return {}
    rows = {}
    for name, (found, settings) in asked.items():
        try:
            teacher = ready.get(found.key) or _from_cache(found, task, settings, reporter)
            rows[name] = rank_row(teacher, task)
        except (UserError, ValueError) as error:
            # The students are trained: no comparison is worth losing them.
            reporter.say(f"{kind(name).label}: not compared: {error}")
    return rows


def rank_row(teacher: ReadyTeacher, task: Task) -> Row:
    """Ranks both parts, with and without the history.

    Raises:
        ValueError: a score is not finite.
    """
    source = teacher.source
    scorer = _Products(source) if isinstance(source, Vectors) else source
    metrics = {}
    ranks = masked = np.empty(0)
    for part in ("validation", "test"):
        instances = getattr(task.split, part)
        targets = task.targets(instances)
        size = task.dataset.num_items
        unseen = rank_by_scores(_Unseen(scorer, task), instances, targets, size)
        again = [
            target in _history(task, instance)
            for instance, target in zip(instances.tolist(), targets, strict=True)
        ]
        ranks = rank_by_scores(scorer, instances, targets, size)
        metrics[part] = ranking_metrics(ranks)
        masked = np.where(again, np.inf, unseen)
        metrics[f"{part}_masked"] = ranking_metrics(masked)
    return Row(ranks, masked, metrics)


class _Products:
    """Vectors as scores; an unknown instance, whose vector is 0, gives all items the same."""

    def __init__(self, vectors: Vectors):
        self._vectors = vectors
        self._items = vectors.items.astype(np.float32)
        self.name = vectors.name

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        users = self._vectors.instances[instance_ids].astype(np.float32)
        return users @ self._items[items].T


class _Unseen:
    """A model's scores of all items, lowest for those of the history but for the target."""

    def __init__(self, scorer: ScoreSource, task: Task):
        self._scorer = scorer
        self._task = task
        self.name = scorer.name

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        scores = np.array(self._scorer.score(instance_ids, items))
        scores[np.isnan(scores).all(axis=1)] = 0
        for row, instance in enumerate(instance_ids.tolist()):
            seen = _history(self._task, instance)
            target = self._task.dataset.interactions.items[instance]
            scores[row, seen[seen != target]] = np.finfo(np.float32).min
        return scores


def _history(task: Task, instance: int) -> Int[np.ndarray, " n"]:
    interactions = task.dataset.interactions
    return interactions.items[interactions.indptr[interactions.users[instance]] : instance]


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
