"""The same world with another future: what was learned or chosen before it must not change."""

import dataclasses

import numpy as np
from jaxtyping import Bool

from prmkd_jax.data.config import SPLITS
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import PARTS
from prmkd_jax.data.synthetic import TARGET, WorldConfig, make_domain
from prmkd_jax.data.task import Task, make_task

__all__ = ["SPLITS", "after_test_begins", "after_training", "tiny_task", "with_other_items"]

CUTS = ("0.7", "0.85")


def tiny_task(split: str, users: int = 60, items: int = 40) -> Task:
    """The synthetic world, which has a clock, under one of `SPLITS`.

    The given split holds out nothing of a third of the users, only a test item of another third.
    """
    world = make_domain(0, TARGET, WorldConfig(users=users, items=items)).dataset
    interactions = world.interactions
    parts = np.zeros(len(interactions.items), np.int8)
    last = interactions.indptr[1:] - 1
    parts[last[np.arange(users) % 3 > 0]] = PARTS.index("test")
    parts[last[np.arange(users) % 3 > 1] - 1] = PARTS.index("validation")
    given = dataclasses.replace(interactions, parts=parts)
    return make_task(dataclasses.replace(world, interactions=given), split, CUTS)


def after_training(task: Task) -> Bool[np.ndarray, " interactions"]:
    """What nothing that is learned may depend on."""
    return ~task.in_train


def after_test_begins(task: Task, split: str) -> Bool[np.ndarray, " interactions"]:
    """What nothing that is learned or chosen may depend on, nor a prefix of the test."""
    interactions = task.dataset.interactions
    if split == "temporal":
        times = interactions.timestamps
        assert times is not None
        return times >= times[task.split.test].min()
    begins = np.full(interactions.num_users, len(interactions.items))
    begins[interactions.users[task.split.test]] = task.split.test
    return np.arange(len(interactions.items)) >= begins[interactions.users]


def with_other_items(task: Task, split: str, where: Bool[np.ndarray, " interactions"]) -> Task:
    """The task with its items permuted in these places and nowhere else."""
    dataset: Dataset = task.dataset
    items = dataset.interactions.items.copy()
    items[where] = np.random.default_rng(1).permutation(items[where])
    assert (items != dataset.interactions.items).any()
    other = dataclasses.replace(dataset.interactions, items=items)
    moved = make_task(dataclasses.replace(dataset, interactions=other), split, CUTS)
    assert moved.split_digest == task.split_digest
    return moved
