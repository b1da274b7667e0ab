"""Data sets and teachers of any size, made from nothing: their times and bytes, not their meaning.

No part is made one user at a time, so ten million interactions take seconds.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bridge.teacher_vectors import Vectors
from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue, Dataset, Interactions
from prmkd_jax.data.task import Task, make_task

_BLOCK = 262_144  # rows made at once


def made_task(
    users: int, items: int, interactions: int, seed: int = 0, longest: int | None = None
) -> Task:
    """Histories of random items, a few items taking most of the interactions; leave-one-out.

    Args:
        users: number of users, with four items each at least, so that everybody is trained on,
            validated and tested.
        items: the catalogue; all of it is ranked.
        interactions: interactions of all users together, at least 4 × users; lengths are 4 and a
            geometric rest.
        seed: seed of the draws.
        longest: items of one more user's history, the first; None for no such user.
    """
    rng = np.random.default_rng(seed)
    mean = interactions / users - 4
    more = rng.geometric(1 / (mean + 1), users) - 1
    lengths = 4 + np.floor(more * (mean * users / max(more.sum(), 1))).astype(np.int64)
    if longest is not None:
        lengths = np.concatenate([[longest], lengths])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    # The square makes the first tenth of the items three times as frequent as all others.
    ids = (items * rng.random(indptr[-1], dtype=np.float32) ** 2).astype(np.int32)
    np.minimum(ids, items - 1, out=ids)
    dataset = Dataset(
        f"made-{users}-{items}",
        Interactions(indptr, ids),
        Catalogue(dict.fromkeys(TEXT_FIELDS, ("",) * items)),
        tuple(map(str, range(len(lengths)))),
        tuple(map(str, range(items))),
    )
    return make_task(dataset)


def made_teachers(folder: Path, task: Task, count: int, width: int, seed: int = 0) -> list[Vectors]:
    """Teachers with random vectors, float16, written to disk and mapped.

    Args:
        folder: the folder that the vectors are written to.
        task: the data set; its instances and items have vectors.
        count: teachers.
        width: width of the vectors.
        seed: seed of the draws.
    """
    rows = {"instances": len(task.dataset.interactions.items), "items": task.dataset.num_items}
    found = []
    for teacher in range(count):
        arrays = {}
        for part, (name, size) in enumerate(rows.items()):
            path = folder / f"{teacher}-{name}.npy"
            array = np.lib.format.open_memmap(path, "w+", np.float16, (size, width))
            rng = np.random.default_rng([seed, teacher, part])
            for block in _blocks(size):
                drawn = rng.standard_normal((block.stop - block.start, width), np.float32)
                array[block] = drawn / np.sqrt(width)
            array.flush()
            arrays[name] = np.load(path, mmap_mode="c")
        found.append(Vectors(f"teacher{teacher}", 10.0, **arrays))
    return found


def _blocks(size: int) -> Iterator[slice]:
    return (slice(at, min(at + _BLOCK, size)) for at in range(0, size, _BLOCK))
