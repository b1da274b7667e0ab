"""The teachers' stage: tuned once, encoded once, then read from the cache by every run."""

import contextlib
import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Float32

from bridge.score_sources import Source
from bridge.teacher_vectors import has_vectors, read_vectors, write_lists, write_vectors
from experiments.cli.console import Reporter, Stage
from experiments.cli.settings import Settings
from experiments.stages.progress import TeacherProgress, setting_line
from prmkd_jax.common.cache import Cache, locked
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import may_write
from prmkd_jax.data.task import Task
from teachers_torch.cluster import require_cluster
from teachers_torch.config import CARD
from teachers_torch.ranked_lists import as_lists
from teachers_torch.registry import identity, kind, will_give_scores
from teachers_torch.shards import encode_in_shards, list_in_shards
from teachers_torch.states import before, remove_state
from teachers_torch.store import load, read_card, save, save_card, stored_teacher
from teachers_torch.teacher import (
    ENCODER_VERSION,
    AnyTeacher,
    Identity,
    Log,
    Scorer,
    Teacher,
    TeacherCard,
    gives_scores,
)
from teachers_torch.tuning import tune, tuning_state

SHARDS = "shards"


class ReadyTeacher(NamedTuple):
    """A tuned teacher, ready to be asked.

    Attributes:
        source: the teacher's vectors or lists, memory-mapped; or the teacher itself, to be asked
            for the scores of every batch.
        card: the teacher's card.
    """

    source: Source
    card: dict[str, Any]


def teacher_identities(task: Task, settings: Settings) -> tuple[Identity, ...]:
    """What the run's teachers depend on; their files are hashed once, here.

    Raises:
        UserError: there is no such teacher, or its files are missing.
    """
    run = settings.run
    return tuple(identity(name, task, settings.teachers, run.teacher_seed) for name in run.teachers)


def check_teachers(
    identities: Sequence[Identity], task: Task, settings: Settings, checked: set[str] | None = None
) -> None:
    """Finds what would stop a teacher later: its vectors, or all that it is made of.

    Args:
        identities: the run's teachers.
        task: data and split.
        settings: the run's settings.
        checked: keys of teachers that need no second look; those checked now are added.

    Raises:
        UserError: a teacher lacks its inputs, they are damaged, or its settings can't be.
    """
    cache = Cache(Path(settings.run.cache_dir))
    made = [each for each in identities if not has_vectors(vectors_folder(cache, each))]
    if made and not (checked is not None and {each.key for each in made} <= checked):
        require_cluster()
    for found in identities:
        if checked is not None and found.key in checked:
            continue
        folder = vectors_folder(cache, found)
        if has_vectors(folder):
            read_vectors(folder, _manifest(found, task))
        else:
            _require_room(cache, found.name)
            kind(found.name).check(task, settings.teachers, cache)
        if checked is not None:
            checked.add(found.key)


def _require_room(cache: Cache, name: str) -> None:
    """Looks whether a teacher that isn't in the cache can be put there.

    Raises:
        UserError: it can't.
    """
    nearest = next(path for path in (cache.root, *cache.root.absolute().parents) if path.exists())
    if not nearest.is_dir() or not may_write(nearest):
        what = "without permission to write" if nearest.is_dir() else "a file"
        raise UserError(
            f"--cache_dir: found {nearest} {what}, expected a folder for teacher {name}, who is "
            "not in the cache yet"
        )


def prepare_teachers(
    identities: Sequence[Identity],
    task: Task,
    settings: Settings,
    reporter: Reporter,
    log: Log,
    *,
    teaching: bool = True,
) -> list[ReadyTeacher]:
    """The run's teachers, from the cache or tuned and encoded.

    A folder's name holds a hash of all that a teacher's vectors depend on, so a change of any of
    it leads to another folder, and nothing else leads to repeated work.

    Args:
        identities: the identities of the teachers.
        task: data and split.
        settings: the run's settings.
        reporter: says what is made.
        log: receives epochs and the settings that are tried.
        teaching: False where they are measured for the tables alone: then they are called as
            there, and of the settings that are tried only the chosen one is said.

    Raises:
        UserError: a teacher lacks its inputs; raised before the first is tuned.
    """
    check_teachers(identities, task, settings)
    cache = Cache(Path(settings.run.cache_dir))
    return [_prepare(found, task, settings, cache, reporter, log, teaching) for found in identities]


def require_made(identities: Sequence[Identity], task: Task, settings: Settings) -> None:
    """Looks whether another process has made the teachers, for one that makes none.

    Raises:
        UserError: a teacher isn't in the cache.
    """
    cache = Cache(Path(settings.run.cache_dir))
    for found in identities:
        folder = vectors_folder(cache, found)
        if not has_vectors(folder) and not (folder / CARD).is_file():
            raise UserError(
                f"--cache_dir: found no {folder}, expected teacher {found.name}, whom the first "
                "process has put there: all processes need the same folders"
            )


def vectors_folder(cache: Cache, found: Identity) -> Path:
    """The cache's folder of a teacher and its vectors."""
    return cache.room("teachers") / f"{found.name}-{found.key}"


def same_vectors(items: Float32[np.ndarray, "items d"]) -> Bool[np.ndarray, " items"]:
    """Whether another item has the very same vector, as stored in float16: their scores tie."""
    stored = items.astype(np.float16)
    _, group, count = np.unique(stored, axis=0, return_inverse=True, return_counts=True)
    return count[group.reshape(-1)] > 1


def _manifest(found: Identity, task: Task) -> dict[str, object]:
    """What a folder's vectors are, as their manifest says."""
    return {
        "teacher": found.name,
        "key": found.key,
        "data": task.dataset.fingerprint,
        "instances": len(task.dataset.interactions.items),
        "items": task.dataset.num_items,
        "encoder_version": ENCODER_VERSION,
    }


def _prepare(
    found: Identity,
    task: Task,
    settings: Settings,
    cache: Cache,
    reporter: Reporter,
    log: Log,
    teaching: bool,
) -> ReadyTeacher:
    title = f"Teacher {found.name}" if teaching else kind(found.name).label
    folder = vectors_folder(cache, found)
    if not has_vectors(folder):
        with locked(folder, lambda: reporter.say(f"{title}: another run makes it, waiting")):
            if not has_vectors(folder):
                with reporter.stage(title, "parts") as stage:
                    making = _Making(
                        found, task, settings, cache, reporter, log, stage, title, teaching
                    )
                    teacher, card, progress = _tuned(making)
                    if gives_scores(teacher) and teacher.top is None:
                        remove_state(tuning_state(cache, found))
                        return ReadyTeacher(teacher, dataclasses.asdict(card))
                    _encode(making, teacher, card, progress)
    else:
        reporter.say(f"{title}: from the cache, {folder}")
        _remove_steps(found, cache)
    stored = read_vectors(folder, _manifest(found, task))
    return ReadyTeacher(stored, dataclasses.asdict(read_card(folder)))


class _Making(NamedTuple):
    """A teacher that is being made."""

    found: Identity
    task: Task
    settings: Settings
    cache: Cache
    reporter: Reporter
    log: Log
    stage: Stage
    title: str
    teaching: bool

    @property
    def folder(self) -> Path:
        return vectors_folder(self.cache, self.found)

    def require_unchanged(self) -> None:
        """Refuses files that are others than when they were hashed: hours may lie between.

        What is made of them would stand in the cache as made of the former ones, for good. What a
        stopped tuning or encoding would go on from is removed.

        Raises:
            UserError: naming what differs.
        """
        found, teachers = self.found, self.settings.teachers
        now = identity(found.name, self.task, teachers, found.seed)
        if now.key == found.key:
            return
        _remove_steps(found, self.cache)  # nobody knows of which files they are
        before, after = found.content["settings"], now.content["settings"]
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        raise UserError(
            f"teacher {found.name}: found other files than when the command began "
            f"({', '.join(changed)}), expected the same until it is made: give the command again"
        )

    @property
    def stored(self) -> Callable[[], AnyTeacher]:
        """Reads the tuned teacher on another machine."""
        cache, teachers = Cache(self.cache.root.absolute()), self.settings.teachers
        folder = vectors_folder(cache, self.found)
        return functools.partial(stored_teacher, self.found, folder, self.task, teachers, cache)


def may_give_vectors(settings: Settings) -> bool:
    """Whether a teacher of the run gives vectors, as far as it is known before it is made.

    Raises:
        UserError: the files of a teacher are missing or wrong.
    """
    kinds = [kind(name) for name in settings.run.teachers]
    return not all(will_give_scores(each, settings.teachers) for each in kinds)


def _tuned(making: _Making) -> tuple[AnyTeacher, TeacherCard, TeacherProgress]:
    """The tuned teacher; one that was killed while encoding is read back.

    Raises:
        UserError: its files were changed, before or while it was tuned.
    """
    found, task, teachers = making.found, making.task, making.settings.teachers
    progress = TeacherProgress(
        making.title, making.reporter, making.stage, making.log, tried=making.teaching
    )
    making.require_unchanged()
    if (making.folder / CARD).is_file():
        making.reporter.say(f"{making.title}: tuned before, in {making.folder}")
        teacher, card = load(
            found.name, making.folder, task, teachers, cache=making.cache, log=progress.on_event
        )
    else:
        teacher, card = tune(found, task, teachers, making.cache, progress.on_event)
        if card.chosen:
            chosen = setting_line(card.chosen, card.validation)
            making.reporter.say(f"{making.title}: chosen: {chosen}")
        making.require_unchanged()
        save(teacher, card, making.folder)
    return teacher, card, progress


def _encode(
    making: _Making, teacher: AnyTeacher, card: TeacherCard, progress: TeacherProgress
) -> None:
    """Writes what the teacher knows of all instances, and what it took into the card."""
    if gives_scores(teacher):
        _write_lists(making, teacher, card, progress)
    else:
        _write_vectors(making, cast(Teacher, teacher), card, progress)
    _remove_steps(making.found, making.cache)


def _write_vectors(
    making: _Making, teacher: Teacher, card: TeacherCard, progress: TeacherProgress
) -> None:
    """Writes the vectors of all instances and items."""
    interactions, folder = making.task.dataset.interactions, making.folder
    started = time.perf_counter()
    on_shard = progress.count_instances()
    instances = encode_in_shards(
        teacher, len(interactions.items), folder / SHARDS, on_shard, stored=making.stored
    )
    items = teacher.encode_items()
    tied = same_vectors(items)
    if tied.any():
        share = np.mean(tied[interactions.items])
        making.reporter.say(
            f"{making.title}: can't tell {tied.sum():,} of {len(tied):,} items from another one "
            f"(equal vectors); {100 * share:.1f} % of the interactions are with them"
        )
    seconds = time.perf_counter() - started
    making.require_unchanged()
    save_card(dataclasses.replace(card, encode_seconds=seconds, tied_items=int(tied.sum())), folder)
    write_vectors(
        folder,
        name=making.found.name,
        scale=teacher.score_scale,
        identity=_manifest(making.found, making.task),
        instances=instances,
        items=items,
    )


def _write_lists(
    making: _Making, teacher: Scorer, card: TeacherCard, progress: TeacherProgress
) -> None:
    """Writes the list of each instance."""
    dataset, folder = making.task.dataset, making.folder
    started = time.perf_counter()
    rows = list_in_shards(
        teacher,
        len(dataset.interactions.items),
        dataset.num_items,
        folder / SHARDS,
        progress.count_instances(),
        making.stored,
    )
    lists = as_lists(making.found.name, rows, dataset.num_items)
    seconds = time.perf_counter() - started
    making.require_unchanged()
    save_card(dataclasses.replace(card, encode_seconds=seconds), folder)
    write_lists(folder, lists, _manifest(making.found, making.task))


def _remove_steps(found: Identity, cache: Cache) -> None:
    """Removes what a finished teacher was made by; a kill may have come before it was."""
    state, shards = tuning_state(cache, found), vectors_folder(cache, found) / SHARDS
    if shards.exists() or any(each.exists() for each in (state, before(state))):
        with contextlib.suppress(OSError):  # a cache that is only read
            shutil.rmtree(shards, ignore_errors=True)
            remove_state(state)
