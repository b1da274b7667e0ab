"""A student of random weights at a real data set's size: enough to measure speed."""

from pathlib import Path

import numpy as np
from flax import nnx

from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue, Dataset, Interactions
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task
from prmkd_jax.serve.exported import export_student
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import make_facts
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student

# Amazon Scientific, 5-core, with the length of its histories.
USERS, ITEMS, MEAN_LENGTH, WINDOW = 8442, 4385, 7, 50
_WORDS = ("steel", "glass", "digital", "precision", "compact", "filter", "sensor", "valve", "tube")


def export_random_student(
    folder: Path, *, width: int = 64, seed: int = 0, items: int = ITEMS, users: int = USERS
) -> Dataset:
    """Exports a SASRec that was never trained.

    Args:
        folder: folder of the export.
        width: width of its vectors.
        seed: seed of its weights; the data are the same for all.
        items: size of its catalogue.
        users: number of users in its data.

    Returns:
        the data that it stands for.
    """
    dataset = _dataset(users, items)
    config = StudentConfig(student="sasrec", hidden_size=width)
    facts = make_facts(Task(dataset, leave_one_out(dataset.interactions)), window(config, WINDOW))
    params = nnx.to_pure_dict(create_student(config, facts, seed)[1])
    export_student(folder, params, config, facts, dataset)
    return dataset


def _dataset(users: int, items: int) -> Dataset:
    rng = np.random.default_rng(0)
    lengths = rng.poisson(MEAN_LENGTH - 3, users) + 3
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    drawn = rng.integers(0, items, indptr[-1], dtype=np.int32)
    words = rng.choice(_WORDS, size=(items, 4))
    titles = tuple(f"{' '.join(row)} no. {number}" for number, row in enumerate(words.tolist()))
    texts = {**dict.fromkeys(TEXT_FIELDS, ("",) * items), "title": titles}
    return Dataset(
        "random",
        Interactions(indptr, drawn),
        Catalogue(texts),
        tuple(f"u{user}" for user in range(users)),
        tuple(f"i{item}" for item in range(items)),
    )
