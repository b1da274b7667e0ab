"""What a student may know of a data set before it is trained: a small value, nothing later.

`make_facts` reads a task's training part and catalogue once. The result holds no data set, is
compared by its content and is written into the exported student.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.dataset import Dataset, category_names
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task

# Of the catalogue's texts those that are words of a vocabulary, and how to find the words.
ITEM_FIELDS = {"brand": lambda text: [text.strip()], "categories": category_names}


class Field(NamedTuple):
    """A categorical field of the items.

    Attributes:
        names: the field's distinct words, sorted; a word's number is its place.
        words: each item's words, padded with −1.
    """

    names: tuple[str, ...]
    words: Int32[np.ndarray, "items most"]

    @property
    def size(self) -> int:
        """How many words there are."""
        return len(self.names)


class SecondDomain(NamedTuple):
    """Another data set's training part, for a student that learns from two.

    Attributes:
        num_items: rows of its item table.
        items: the item ids of its training histories, one history after the other.
        begins: for each training instance, where the user's history begins in `items`.
        targets: for each training instance, the place of its target in `items`.
    """

    num_items: int
    items: Int32[np.ndarray, " interactions"]
    begins: Int32[np.ndarray, " instances"]
    targets: Int32[np.ndarray, " instances"]


def without_histories(num_items: int) -> SecondDomain:
    """A second domain of which only the size is left, which is all that scoring needs."""
    none = np.zeros(0, np.int32)
    return SecondDomain(num_items, none, none, none)


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """Sizes, training edges and item fields; equal where the content is equal.

    It may stand in a model's static structure: models of equal facts share compiled code.

    Attributes:
        num_users: users with a history.
        num_items: rows of every item table.
        window: longest prefix that the model sees.
        edges: distinct (user, item) pairs of the training part, sorted.
        item_fields: the catalogue's categorical fields by name; only those that some item has.
        second: the second domain, or None.
    """

    num_users: int
    num_items: int
    window: int
    edges: Int32[np.ndarray, "2 edges"]
    item_fields: Mapping[str, Field]
    second: SecondDomain | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, 64 hex digits."""
        digest = hashlib.sha256(f"{self.num_users} {self.num_items} {self.window}".encode())
        for name, part in self._content():
            if isinstance(part, np.ndarray):
                array = np.ascontiguousarray(part)
                digest.update(f"|{name} {array.dtype} {array.shape}|".encode())
                digest.update(array.tobytes())
            else:
                digest.update(f"|{name} {part!r}|".encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Facts) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def only(self, parts: frozenset[str]) -> "Facts":
        """The facts with only these arrays; sizes stay, the rest is empty.

        Args:
            parts: names among `edges` and `item_fields`.
        """
        second = None
        if self.second is not None:
            second = without_histories(self.second.num_items)
        return dataclasses.replace(
            self,
            edges=self.edges if "edges" in parts else np.zeros((2, 0), np.int32),
            item_fields=self.item_fields if "item_fields" in parts else {},
            second=second,
        )

    def _content(self) -> Iterator[tuple[str, object]]:
        yield "edges", self.edges
        for name, field in self.item_fields.items():
            yield name, field.names
            yield name, field.words
        if self.second is not None:
            yield from self.second._asdict().items()


def make_facts(task: Task, window: int, second: Dataset | None = None) -> Facts:
    """Reads what a student may know.

    Args:
        task: data set and split; of the interactions only the training part is read.
        window: longest prefix that the model sees (`registry.window`).
        second: another data set, for a student that learns from two domains; its users' last two
            items are left out, as leave-one-out does.
    """
    dataset = task.dataset
    fields = {
        name: _field(dataset.catalogue.texts[name], words)
        for name, words in ITEM_FIELDS.items()
        if any(dataset.catalogue.texts[name])  # else no word, after a look at every item
    }
    return Facts(
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        window=window,
        edges=training_edges(task),
        item_fields={name: field for name, field in fields.items() if field.size},
        second=None if second is None else _second_domain(second),
    )


def training_edges(task: Task) -> Int32[np.ndarray, "2 edges"]:
    """Distinct (user, item) pairs of the training part, sorted."""
    return np.stack([task.read_items.users, task.read_items.items])


def _second_domain(dataset: Dataset) -> SecondDomain:
    histories = dataset.interactions
    end = leave_one_out(histories).train_end
    trained = np.arange(len(histories.items)) < end[histories.users]
    begins = np.repeat(offsets_of(end - histories.indptr[:-1])[:-1], end - histories.indptr[:-1])
    targets = np.flatnonzero(np.arange(len(begins)) > begins)
    return SecondDomain(
        dataset.num_items,
        histories.items[trained],
        begins[targets].astype(np.int32),
        targets.astype(np.int32),
    )


def _field(texts: tuple[str, ...], words_of: Callable[[str], list[str]]) -> Field:
    # dict: distinct words in the order in which they occur.
    rows = [list(dict.fromkeys(filter(None, words_of(text)))) for text in texts]
    names = tuple(sorted({word for row in rows for word in row}))
    vocabulary = {word: number for number, word in enumerate(names)}
    words = np.full((len(rows), max(map(len, rows), default=0)), -1, dtype=np.int32)
    for out, row in zip(words, rows, strict=True):
        out[: len(row)] = [vocabulary[word] for word in row]
    return Field(names, words)
