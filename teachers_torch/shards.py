"""Instances in shards on disk, so that a run killed while encoding goes on from there."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Shaped

from prmkd_jax.common.parts import Make, PartFiles
from teachers_torch.cluster import make_parts
from teachers_torch.optional import frozen
from teachers_torch.ranked_lists import best
from teachers_torch.teacher import AnyTeacher, Scorer, Teacher

SHARD_SIZE = 4096
LIST_SHARD_SIZE = 512  # a shard's scores of all items are in memory at once


def encode_in_shards(
    teacher: Teacher,
    num_instances: int,
    folder: Path,
    progress: Callable[[int, int], None],
    shard_size: int = SHARD_SIZE,
    stored: Callable[[], AnyTeacher] | None = None,
) -> PartFiles:
    """Vectors [instances, width] of all instances, in files, float32.

    The shards that are in `folder` already are not encoded again, and no more than one shard is
    in memory.

    Args:
        teacher: tuned; the shards must be this one's.
        num_instances: ids 0 … num_instances − 1 are encoded.
        folder: made if missing; the caller removes it once the vectors are stored elsewhere.
        progress: receives the instances encoded and to encode, after each shard.
        shard_size: instances of a shard.
        stored: reads the same teacher where `cluster` has the shards made; without it all are
            made here.
    """
    here = functools.partial(_encoding, lambda: teacher)
    there = functools.partial(_encoding, stored) if stored is not None else None
    return make_parts(folder, num_instances, shard_size, here, progress, there)


def list_in_shards(
    teacher: Scorer,
    num_instances: int,
    num_items: int,
    folder: Path,
    progress: Callable[[int, int], None],
    stored: Callable[[], AnyTeacher] | None = None,
) -> Shaped[np.ndarray, " instances"]:
    """The best items of all instances, rows of `ranked_lists.best`; as `encode_in_shards`.

    Args:
        teacher: tuned, with a `top`.
        num_instances: ids 0 … num_instances − 1 are ranked.
        num_items: all are scored.
        folder: the folder of the shards, as in `encode_in_shards`.
        progress: receives the instances ranked and to rank, as in `encode_in_shards`.
        stored: reads the same teacher on another machine, as in `encode_in_shards`.

    Raises:
        ValueError: the teacher has no `top`.
    """
    if teacher.top is None:
        raise ValueError(f"teacher {teacher.name} is asked for every batch")
    here = functools.partial(_listing, lambda: teacher, num_items)
    there = functools.partial(_listing, stored, num_items) if stored is not None else None
    return make_parts(folder, num_instances, LIST_SHARD_SIZE, here, progress, there).array()


def _encoding(teacher: Callable[[], AnyTeacher]) -> Make:
    """What makes the vectors of some instances."""
    encoder = frozen(cast(Teacher, teacher()))

    def make(start: int, stop: int) -> np.ndarray:
        return encoder.encode_instances(np.arange(start, stop))

    return make


def _listing(teacher: Callable[[], AnyTeacher], num_items: int) -> Make:
    """What makes the lists of some instances."""
    scorer = cast(Scorer, teacher())
    top = scorer.top
    assert top is not None  # `list_in_shards` has looked

    def make(start: int, stop: int) -> np.ndarray:
        return best(scorer.score(np.arange(start, stop), np.arange(num_items)), top)

    return make
