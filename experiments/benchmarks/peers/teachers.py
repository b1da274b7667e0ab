"""Vectors of teachers as plain files, the same for our step and PyTorch's."""

from pathlib import Path

import numpy as np
from jaxtyping import Float16

from prmkd_jax.data.task import Task

Pair = tuple[Float16[np.ndarray, "instances d"], Float16[np.ndarray, "items d"]]


def write_vectors(folder: Path, task: Task, count: int, width: int) -> None:
    """Random vectors: what a step takes doesn't depend on their values.

    Args:
        folder: the folder for `instances-<k>.npy` and `items-<k>.npy`.
        task: the data set; its instances and items have vectors.
        count: teachers.
        width: width of the vectors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"instances": len(task.dataset.interactions.items), "items": task.dataset.num_items}
    for teacher in range(count):
        rng = np.random.default_rng([18, teacher])
        for name, rows in sizes.items():
            drawn = rng.standard_normal((rows, width), np.float32) / np.sqrt(width)
            np.save(folder / f"{name}-{teacher}.npy", drawn.astype(np.float16))


def read_vectors(folder: Path) -> list[Pair]:
    """Each teacher's vectors of the instances and of the items."""
    count = len(list(folder.glob("items-*.npy")))
    return [
        (np.load(folder / f"instances-{k}.npy"), np.load(folder / f"items-{k}.npy"))
        for k in range(count)
    ]
