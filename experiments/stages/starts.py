"""What a student's item tables begin from, `--item_init`: texts' vectors, or the teachers'."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bridge.score_sources import Source
from bridge.teacher_vectors import Vectors
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.progress import TeacherProgress
from experiments.stages.students import teaching
from experiments.stages.teachers import ReadyTeacher, may_give_vectors
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.task import Task
from prmkd_jax.students.config import ItemInit, parse_item_init
from prmkd_jax.students.starts import ItemStart, no_directions, side_by_side
from teachers_torch.config import TextConfig
from teachers_torch.items.inputs import has_texts, text_inputs
from teachers_torch.items.text import item_sentences
from teachers_torch.items.text_files import read_text_features
from teachers_torch.sequence.item_inputs import TEXTS


def check_item_start(settings: Settings, task: Task) -> None:
    """Finds what would stop `--item_init` later; an encoder of no cached vectors is loaded.

    Raises:
        UserError: the data set has no texts or all the same, their encoder or file is missing or
            wrong, or no teacher gives vectors of items.
    """
    if _requested(settings).source == "teachers" and not may_give_vectors(settings):
        raise _no_vectors(settings)
    if _requested(settings).source != "text":
        return
    dataset = task.dataset
    if not has_texts(dataset, settings.teachers.text):
        raise UserError(
            f"--item_init: found {settings.student.item_init!r}, but data set {dataset.name} has "
            "no texts, expected random"
        )
    _require_different(settings.teachers.text, dataset)
    TEXTS.widths(dataset, settings.teachers, None, Cache(Path(settings.run.cache_dir)))


def _require_different(config: TextConfig, dataset: Dataset) -> None:
    """Refuses texts that are all the same, or a file of such vectors."""
    if config.text_features:
        vectors = read_text_features(config, dataset)
        if (vectors == vectors[0]).all():
            raise no_directions(len(vectors))
        return
    texts = [text for text in item_sentences(dataset.catalogue) if text.strip()]
    if len(set(texts)) == 1:
        raise no_directions(len(texts))


def item_start_identity(settings: Settings, task: Task) -> dict[str, object]:
    """What the vectors depend on besides data and teachers; empty where nothing else is read."""
    if _requested(settings).source != "text":
        return {}
    return TEXTS.identity(task.dataset, settings.teachers)


def require_same_files(settings: Settings, task: Task, before: Mapping[str, object]) -> None:
    """Refuses vectors of other files than the run is known by: hours may have passed since.

    Args:
        settings: the run's.
        task: the data and split.
        before: the identity that `item_start_identity` gave when the command began.

    Raises:
        UserError: it says something else now.
    """
    if item_start_identity(settings, task) != before:
        raise UserError(
            f"--item_init: found {settings.student.item_init!r} with other files than when the "
            "command began, expected the same until the item tables are made: give the command "
            "again"
        )


def item_start(
    settings: Settings, task: Task, teachers: Sequence[ReadyTeacher], reporter: Reporter
) -> ItemStart | None:
    """The vectors that the item tables begin from; None where every seed draws its own.

    Texts are encoded, unless their vectors are in the cache.

    Raises:
        UserError: see `check_item_start`; or no teacher gives vectors of items.
    """
    asked = _requested(settings)
    if asked.source == "text":
        return _from_texts(asked, settings, task, reporter)
    if asked.source == "teachers":
        require_item_vectors(settings, teachers)
        # A control's start must not teach it either.
        sources = teaching(teachers, settings, task.dataset.num_items)
        joined = side_by_side(_item_vectors(sources))
        return ItemStart(joined, np.ones(len(joined), bool), asked.deviation)
    return None


def require_item_vectors(settings: Settings, teachers: Sequence[ReadyTeacher]) -> None:
    """Finds, once the teachers are there, what would stop `--item_init=teachers`.

    Raises:
        UserError: no teacher gives vectors of items.
    """
    sources = [teacher.source for teacher in teachers]
    if _requested(settings).source == "teachers" and not _item_vectors(sources):
        raise _no_vectors(settings)


def _no_vectors(settings: Settings) -> UserError:
    return UserError(
        f"--item_init: found {settings.student.item_init!r}, but no teacher of this run "
        "gives vectors of items, expected random or text"
    )


def _item_vectors(sources: Sequence[Source]) -> list[np.ndarray]:
    """The item vectors of the teachers that have some."""
    return [np.asarray(each.items, np.float32) for each in sources if isinstance(each, Vectors)]


def _from_texts(asked: ItemInit, settings: Settings, task: Task, reporter: Reporter) -> ItemStart:
    cache = Cache(Path(settings.run.cache_dir))
    with reporter.stage("Item texts", "texts") as stage:
        progress = TeacherProgress("Item texts", reporter, stage)
        text = settings.teachers.text
        found = text_inputs(task.dataset, text, 0.0, cache, progress.on_event)
    return ItemStart(found.features, found.available, asked.deviation)


def _requested(settings: Settings) -> ItemInit:
    return parse_item_init(settings.student.item_init)
