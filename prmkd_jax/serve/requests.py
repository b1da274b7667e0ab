"""What a caller asks, as rows of the student's tables: ids in, rows out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
from jaxtyping import Bool

from prmkd_jax.serve.rows import MOST_LISTED, padded_list, padded_rows

ItemLists = Iterable[str] | Iterable[Iterable[str]]
"""Item ids for all histories, or a list of them for each history."""


class IndexedHistories(NamedTuple):
    """Histories as rows of the student's tables.

    Attributes:
        items: each history's known items, oldest first.
        unknown: how many other items each history has.
        users: each user's row, −1 where unknown.
    """

    items: list[list[int]]
    unknown: list[int]
    users: list[int]

    def part(self, part: slice) -> "IndexedHistories":
        """Some of them."""
        return IndexedHistories(self.items[part], self.unknown[part], self.users[part])


class Filters(NamedTuple):
    """Which items may be recommended.

    Attributes:
        valid: True for items that the lists for all histories let through.
        allowed: each history's list of its own; None where there are none.
        denied: likewise.
        seen: whether the items of the history are left out.
    """

    valid: Bool[np.ndarray, " V"]
    allowed: list[list[int]] | None
    denied: list[list[int]] | None
    seen: bool

    def part(self, part: slice) -> "Filters":
        """Those of some histories."""
        allowed = None if self.allowed is None else self.allowed[part]
        denied = None if self.denied is None else self.denied[part]
        return Filters(self.valid, allowed, denied, self.seen)


class Ids:
    """The ids that a student knows, each with its row.

    Attributes:
        items: item id → row.
        users: user id → row.

    Args:
        item_ids: item ids in the order of the item table.
        user_ids: user ids in the order of the user table.
    """

    def __init__(self, item_ids: Sequence[str], user_ids: Sequence[str] = ()):
        self.items = {item: row for row, item in enumerate(item_ids)}
        self.users = {user: row for row, user in enumerate(user_ids)}

    def known(self, ids: Sequence[str]) -> list[int]:
        """The rows of the items that the student knows."""
        return [self.items[item] for item in ids if item in self.items]

    def histories(
        self, histories: Sequence[Sequence[str]], users: Iterable[str | None] | None
    ) -> IndexedHistories:
        """Histories and their users.

        Args:
            histories: lists of item ids, as `id_lists` gives them.
            users: a user's id, or None, for each.

        Raises:
            ValueError: there are not as many users, or one is no string.
        """
        given = [None] * len(histories) if users is None else listed("users", users, "user ids")
        if len(given) != len(histories):
            raise ValueError(f"users: found {len(given)}, expected {len(histories)}")
        require_strings("users", [user for user in given if user is not None])
        items = [self.known(history) for history in histories]
        unknown = [len(history) - len(row) for history, row in zip(histories, items, strict=True)]
        rows = [-1 if user is None else self.users.get(user, -1) for user in given]
        return IndexedHistories(items, unknown, rows)

    def filters(
        self, allow: ItemLists | None, deny: ItemLists | None, seen: bool, histories: int
    ) -> Filters:
        """What may be recommended to so many histories.

        Raises:
            ValueError: lists for each history, but not as many, or what is no id.
        """
        valid = np.ones(len(self.items), dtype=bool)
        allowed = denied = None
        if allow is not None:
            found = listed("allow", allow, "item ids")
            if _for_all(found):
                valid[:] = False
                valid[self.known(found)] = True
            else:
                allowed = self._lists("allow", found, histories)
        if deny is not None:
            found = listed("deny", deny, "item ids")
            if _for_all(found):
                valid[self.known(found)] = False
            else:
                denied = self._lists("deny", found, histories)
        return Filters(valid, allowed, denied, seen)

    def _lists(self, name: str, lists: Sequence[object], histories: int) -> list[list[int]]:
        if len(lists) != histories:
            raise ValueError(f"{name}: found {len(lists)} lists, expected {histories}")
        return [self.known(each) for each in id_lists(name, lists)]


def id_lists(name: str, lists: object) -> list[list[str]]:
    """A list of item ids for each history, of any iterables of strings.

    >>> id_lists("histories", (("i1", "i2"), iter(["i3"])))
    [['i1', 'i2'], ['i3']]

    Raises:
        ValueError: a string stands for a list, or an id is no string.
    """
    out = [listed(name, one, "item ids") for one in listed(name, lists, "lists of item ids")]
    for ids in out:
        require_strings(name, ids)
    return out


def require_strings(name: str, ids: Sequence[object]) -> None:
    """Refuses ids of another type: no integer is ever equal to an id, so all would be unknown.

    Raises:
        ValueError: naming the first.
    """
    for one in ids:
        if not isinstance(one, str):
            raise ValueError(f"{name}: found {one!r} among ids, expected strings")


def number_of_items(k: int) -> int:
    """How many items are wanted, as Python's own number.

    Raises:
        ValueError: it is no whole number of at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k: found {k!r}, expected a whole number, at least 1")
    return int(k)


def parts(read: IndexedHistories, filters: Filters, most_rows: int) -> Iterator[slice]:
    """Histories that are answered together: at most `most_rows`, and fewer where lists are long.

    So the padded lists of one part never hold more than `MOST_LISTED` numbers, however many
    histories there are, unless a single one's do.
    """
    first, widest = 0, 0
    for row in range(len(read.items)):
        width = padded_list(_longest(read, filters, row))
        rows = row - first + 1
        if rows > 1 and (rows > most_rows or padded_rows(rows) * max(widest, width) > MOST_LISTED):
            yield slice(first, row)
            first, widest = row, 0
        widest = max(widest, width)
    if read.items:
        yield slice(first, len(read.items))


def _longest(read: IndexedHistories, filters: Filters, row: int) -> int:
    """Length of the longest list that a history brings, of left-out or of allowed items."""
    out = len(set(read.items[row])) if filters.seen else 0
    if filters.denied is not None:
        out += len(filters.denied[row])
    return out if filters.allowed is None else max(out, len(filters.allowed[row]))


def listed(name: str, found: object, expected: str) -> list:
    """What an iterable holds; a string is one value and no list of letters.

    Raises:
        ValueError: it is a string, or nothing that holds several.
    """
    if isinstance(found, str | bytes):
        raise ValueError(f"{name}: found a string, expected a list of {expected}")
    if not isinstance(found, Iterable):
        raise ValueError(f"{name}: found {found!r}, expected a list of {expected}")
    return list(found)


def _for_all(lists: list[object]) -> TypeGuard[list[str]]:
    """Whether it is one list of ids, not a list for each history."""
    return all(isinstance(one, str) for one in lists)
