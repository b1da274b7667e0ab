"""What a student may know of a data set before it is trained."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from prmkd_jax.data.dataset import Dataset, category_names
from prmkd_jax.data.packing import PackedRows, instance_segments, pack
from prmkd_jax.data.splits import Split, leave_one_out
from prmkd_jax.data.task import Task

# Of the catalogue's texts those that are words of a vocabulary, and how to find the words.
ITEM_FIELDS = {"brand": lambda text: [text.strip()], "categories": category_names}


class Field(NamedTuple):
    """A categorical field of the items.

    Attributes:
        names: its distinct words, sorted; a word's number is its place.
        words: each item's words, padded with −1.
    """

    names: tuple[str, ...]
    words: Int32[np.ndarray, "items most"]

    @property
    def size(self) -> int:
        """How many words there are."""
        return len(self.names)


# Compared by identity: it is part of a model's static structure, and holds arrays.
@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """Sizes, the catalogue's categorical fields and the training part; nothing later.

    Attributes:
        dataset: histories and catalogue.
        split: its parts.
        max_seq_len: longest prefix that a model sees.
        second_domain: another data set, for a model that learns from two.
    """

    dataset: Dataset
    split: Split
    max_seq_len: int
    second_domain: Dataset | None = None

    @property
    def num_users(self) -> int:
        """Users with a history."""
        return self.dataset.num_users

    @property
    def num_items(self) -> int:
        """Rows of every item table."""
        return self.dataset.num_items

    @cached_property
    def edges(self) -> Int32[np.ndarray, "2 edges"]:
        """Distinct (user, item) pairs of the training part, sorted."""
        interactions = self.dataset.interactions
        offsets = np.arange(len(interactions.items))
        trained = offsets < self.split.train_end[interactions.users]
        pairs = np.stack([interactions.users[trained], interactions.items[trained]])
        return np.unique(pairs, axis=1).astype(np.int32)

    @cached_property
    def item_fields(self) -> dict[str, Field]:
        """The catalogue's categorical fields by name; only those that some item has."""
        fields = {
            name: _field(self.dataset.catalogue.texts[name], words)
            for name, words in ITEM_FIELDS.items()
        }
        return {name: field for name, field in fields.items() if field.size}

    @cached_property
    def second_rows(self) -> PackedRows:
        """The second domain's longest training prefixes, one a row and user.

        Rows have `max_seq_len` slots and one for a token of the model's own.
        """
        assert self.second_domain is not None
        histories = self.second_domain.interactions
        last = leave_one_out(histories).train_end - 1
        last = last[last > histories.indptr[:-1]]
        segments = instance_segments(histories, last, self.max_seq_len, own_slot=True)
        packed = pack(histories, segments, 1, self.max_seq_len + 1, most=1)
        return PackedRows(*(np.concatenate(rows) for rows in zip(*packed, strict=True)))


def make_facts(task: Task, window: int, second: Dataset | None = None) -> Facts:
    """What a student may know of a task.

    Args:
        task: data set and split.
        window: longest prefix that the model reads.
        second: another data set, for a model that learns from two.
    """
    return Facts(task.dataset, task.split, window, second)


def _field(texts: tuple[str, ...], words_of: Callable[[str], list[str]]) -> Field:
    # dict: distinct words in the order in which they stand.
    rows = [list(dict.fromkeys(filter(None, words_of(text)))) for text in texts]
    names = tuple(sorted({word for row in rows for word in row}))
    vocabulary = {word: number for number, word in enumerate(names)}
    words = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int32)
    for out, row in zip(words, rows, strict=True):
        out[: len(row)] = [vocabulary[word] for word in row]
    return Field(names, words)
