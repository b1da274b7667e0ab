"""Tuning a teacher of any kind: build, tune, measure, card."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float32, Float64, Int

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.splits import require_parts
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import expected_ranks, ranking_metrics
from teachers_torch.optional import frozen
from teachers_torch.registry import kind
from teachers_torch.scale import check_scale
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import seeded
from teachers_torch.teacher import (
    AnyTeacher,
    Identity,
    Log,
    ScoreSource,
    Teacher,
    TeacherCard,
    Tuning,
    gives_scores,
)

USERS_AT_ONCE = 1024
# Scores held at once, as a number: 256 MiB in float32 whatever the catalogue's size.
MOST_SCORES = 2**26


def tune(
    identity: Identity, task: Task, settings: TeacherSettings, cache: Cache, log: Log
) -> tuple[AnyTeacher, TeacherCard]:
    """Builds a teacher, tunes it on the training part and measures it.

    The same identity gives the same teacher on a CPU. torch's global random state is left as
    it was.

    Args:
        identity: the teacher's identity from `registry.identity`, of this task and these settings;
            its seed decides weights, batches, dropout and noise.
        task: trained on `train`, selected on `validation`, reported on `test`.
        settings: all teachers' settings.
        cache: holds encoded texts and images, and the state of the tuning after each epoch
            (`tuning_state`), from which a killed tuning continues.
        log: receives `encode_texts`, `encode_images` and `encode` (`done`, `total`), `step` and
            `epoch` events.

    Raises:
        UserError: inputs are missing or wrong, a part of the split is empty, or the teacher's
            `score_scale` isn't above 0.
    """
    chosen = kind(identity.name)
    require_parts(task.dataset.name, task.split)

    def log_event(event: dict[str, object]) -> None:
        log({"teacher": identity.name, **event})

    with seeded(identity.seed):
        teacher = chosen.build(task, settings, cache, log_event)
        if not gives_scores(teacher):
            check_scale(cast(Teacher, teacher).score_scale, f"teacher {teacher.name}: score_scale")
        started = time.perf_counter()
        tuned = chosen.tune(
            teacher,
            task,
            lambda: evaluate(teacher, task, task.split.validation),
            identity.seed,
            tuning_state(cache, identity),
            log_event,
        )
        measuring = time.perf_counter()
        # What trains in epochs tells their seconds, those before a stop among them.
        tuned = tuned._replace(seconds=tuned.seconds or measuring - started)
        test = evaluate(teacher, task, task.split.test)
        test_seconds = time.perf_counter() - measuring
    return teacher, _card(identity, task, teacher, tuned, test, test_seconds)


def _card(
    identity: Identity,
    task: Task,
    teacher: AnyTeacher,
    tuned: Tuning,
    test: dict[str, float],
    test_seconds: float,
) -> TeacherCard:
    return TeacherCard(
        name=identity.name,
        dataset=task.dataset.name,
        data_fingerprint=task.dataset.fingerprint,
        start=teacher.start,
        seed=identity.seed,
        settings=identity.content["settings"],
        validation=tuned.validation,
        test=test,
        seconds=tuned.seconds,
        num_parameters=teacher.num_parameters,
        epochs=tuned.epochs,
        best_epoch=tuned.best_epoch,
        table_bytes=teacher.table_bytes,
        chosen=tuned.chosen or {},
        test_seconds=test_seconds,
    )


def tuning_state(cache: Cache, identity: Identity) -> Path:
    """File of the state of a tuning; to be deleted once the tuned teacher is saved."""
    return cache.room("tuning") / f"{identity.name}-{identity.key}.pt"


def evaluate(
    teacher: AnyTeacher, task: Task, instance_ids: Int[np.ndarray, " instances"]
) -> dict[str, float]:
    """Metrics of ranking all items for these instances, no history masked.

    Raises:
        UserError: a score is not finite.
    """
    targets = task.targets(instance_ids)
    try:
        if gives_scores(teacher):
            ranks = rank_by_scores(teacher, instance_ids, targets, task.dataset.num_items)
            return ranking_metrics(ranks)
        encoder = frozen(cast(Teacher, teacher))
        users = encoder.encode_instances(instance_ids)
        return ranking_metrics(rank_all(users, encoder.encode_items(), targets))
    except ValueError as error:
        raise UserError(
            f"teacher {teacher.name}: found scores that are not finite ({error}); a smaller "
            "learning rate of the teacher may help"
        ) from error


def rank_by_scores(
    teacher: ScoreSource,
    instance_ids: Int[np.ndarray, " instances"],
    targets: Int[np.ndarray, " instances"],
    num_items: int,
) -> Float64[np.ndarray, " instances"]:
    """As `rank_all`, by a teacher's scores; all items tie for an instance that it doesn't know.

    Raises:
        ValueError: a score is not finite.
    """
    ranks = []
    for part in _blocks(len(instance_ids), num_items):
        scores = teacher.score(instance_ids[part], np.arange(num_items))
        unknown = np.asarray(np.isnan(scores).all(axis=1))
        ranks.append(expected_ranks(np.where(unknown[:, None], 0, scores), targets[part]))
    return np.concatenate(ranks) if ranks else np.empty(0)


def rank_all(
    users: Float32[np.ndarray, "users width"],
    items: Float32[np.ndarray, "items width"],
    targets: Int[np.ndarray, " users"],
) -> Float64[np.ndarray, " users"]:
    """Every target's expected rank among all items by the dot product, no history masked.

    Raises:
        ValueError: a score is not finite.
    """
    parts = _blocks(len(users), len(items))
    ranks = [expected_ranks(users[part] @ items.T, targets[part]) for part in parts]
    return np.concatenate(ranks) if ranks else np.empty(0)


def _blocks(users: int, num_items: int) -> Iterator[slice]:
    """Users that are ranked together: fewer where the catalogue is large."""
    size = max(1, min(USERS_AT_ONCE, MOST_SCORES // max(num_items, 1)))
    return (slice(at, at + size) for at in range(0, users, size))
