"""A data set and its split as one value: what teachers and students are trained and ranked on."""

import dataclasses
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, Integer

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import SPLITS
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.sheet import Sheet, describe
from prmkd_jax.data.splits import (
    Cut,
    Split,
    given,
    global_temporal,
    leave_one_out,
    require_parts,
    split_digest,
    with_validation,
)


class ReadItems(NamedTuple):
    """Every user's distinct training items.

    Attributes:
        offsets: user u's are `items[offsets[u]:offsets[u + 1]]`.
        items: item ids, ascending for each user.
        first: offset in `Interactions.items` at which each stands first.
    """

    offsets: Int64[np.ndarray, " users_plus_1"]
    items: Int32[np.ndarray, " pairs"]
    first: Int64[np.ndarray, " pairs"]

    @property
    def users(self) -> Int32[np.ndarray, " pairs"]:
        """The user of each."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is learned from what; loaded once and handed on.

    Attributes:
        dataset: histories and catalogue.
        split: the data set's training, validation and test instances.
    """

    dataset: Dataset
    split: Split

    @cached_property
    def split_digest(self) -> str:
        """SHA-256 over what is trained on and the held out instances, 64 hex digits."""
        return split_digest(self.split, self.dataset.interactions)

    @cached_property
    def in_train(self) -> Bool[np.ndarray, " interactions"]:
        """Whether each interaction belongs to the training part."""
        interactions = self.dataset.interactions
        return np.arange(len(interactions.items)) < self.split.train_end[interactions.users]

    @cached_property
    def training_counts(self) -> Int64[np.ndarray, " items"]:
        """How often each item occurs in the training part."""
        items = self.dataset.interactions.items[self.in_train]
        return np.bincount(items, minlength=self.dataset.num_items)

    @cached_property
    def read_items(self) -> ReadItems:
        """Every user's distinct training items."""
        interactions = self.dataset.interactions
        num_items = max(self.dataset.num_items, 1)
        (trained,) = np.nonzero(self.in_train)
        users = interactions.users[trained].astype(np.int64)
        # One number a pair: a row of two columns takes ten times as long to sort.
        pairs = users * num_items + interactions.items[trained]
        pairs, first = np.unique(pairs, return_index=True)
        offsets = np.searchsorted(pairs, np.arange(interactions.num_users + 1) * num_items)
        return ReadItems(offsets, (pairs % num_items).astype(np.int32), trained[first])

    @cached_property
    def sheet(self) -> Sheet:
        """What the data set holds, and what in it is likely a mistake."""
        return describe(self.dataset, self.split)

    def with_validation(self) -> "Task":
        """The task that trains on the validation part too; see `splits.with_validation`."""
        split = with_validation(self.split, self.dataset.interactions)
        return dataclasses.replace(self, split=split)

    def targets(self, instance_ids: Integer[np.ndarray, " B"]) -> Int32[np.ndarray, " B"]:
        """The item that each instance asks for."""
        return self.dataset.interactions.items[instance_ids]


def make_task(
    dataset: Dataset, split: str = "leave_one_out", cuts: tuple[Cut, Cut] = ("0.8", "0.9")
) -> Task:
    """Splits a data set.

    Args:
        dataset: histories and catalogue.
        split: a name of `SPLITS`.
        cuts: beginnings of the validation and of the test period, for a temporal split.

    Raises:
        UserError: there is no such split, it leaves a part empty, or it needs a clock or parts
            that the data set doesn't have.
    """
    if split not in SPLITS:
        raise UserError(f"--split: found {split!r}, expected one of {', '.join(SPLITS)}")
    if split == "temporal":
        task = Task(dataset, global_temporal(dataset.interactions, cuts, dataset.name))
    elif split == "given":
        task = Task(dataset, given(dataset.interactions, dataset.name))
    else:
        task = Task(dataset, leave_one_out(dataset.interactions))
    require_parts(dataset.name, task.split)
    return task
