"""What a caller asks, as rows of the student's tables: ids in, rows out."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool

ItemLists = Sequence[str] | Sequence[Sequence[str]]
"""Item ids for all histories, or a list of them for each history."""


class Histories(NamedTuple):
    """Histories as rows of the student's tables.

    Attributes:
        items: each history's known items, oldest first.
        unknown: how many other items each history has.
        users: each user's row, −1 where unknown.
    """

    items: list[list[int]]
    unknown: list[int]
    users: list[int]

    def part(self, part: slice) -> "Histories":
        """Some of them."""
        return Histories(self.items[part], self.unknown[part], self.users[part])


class Filters(NamedTuple):
    """Which items may be recommended.

    Attributes:
        valid: by the lists that hold for all histories.
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
        item_ids: in the order of the item table.
        user_ids: in the order of the user table.
    """

    def __init__(self, item_ids: Sequence[str], user_ids: Sequence[str] = ()):
        self.items = {item: row for row, item in enumerate(item_ids)}
        self.users = {user: row for row, user in enumerate(user_ids)}

    def known(self, ids: Sequence[str]) -> list[int]:
        """The rows of the items that the student knows."""
        return [self.items[item] for item in ids if item in self.items]

    def histories(
        self, histories: Sequence[Sequence[str]], users: Sequence[str | None] | None
    ) -> Histories:
        """Histories and their users.

        Raises:
            ValueError: a history is a string, or there are not as many users.
        """
        if any(isinstance(history, str) for history in histories):
            raise ValueError("histories: found a string, expected a list of item ids a history")
        if users is not None and len(users) != len(histories):
            raise ValueError(f"users: found {len(users)}, expected {len(histories)}")
        items = [self.known(history) for history in histories]
        unknown = [len(history) - len(row) for history, row in zip(histories, items, strict=True)]
        given = [None] * len(histories) if users is None else users
        rows = [-1 if user is None else self.users.get(user, -1) for user in given]
        return Histories(items, unknown, rows)

    def filters(
        self, allow: ItemLists | None, deny: ItemLists | None, seen: bool, histories: int
    ) -> Filters:
        """What may be recommended to so many histories.

        Raises:
            ValueError: lists for each history, but not as many.
        """
        valid = np.ones(len(self.items), dtype=bool)
        allowed = denied = None
        if allow is not None and _for_all(allow):
            valid[:] = False
            valid[self.known(cast(Sequence[str], allow))] = True
        elif allow is not None:
            allowed = self._lists("allow", allow, histories)
        if deny is not None and _for_all(deny):
            valid[self.known(cast(Sequence[str], deny))] = False
        elif deny is not None:
            denied = self._lists("deny", deny, histories)
        return Filters(valid, allowed, denied, seen)

    def _lists(self, name: str, lists: ItemLists, histories: int) -> list[list[int]]:
        if len(lists) != histories:
            raise ValueError(f"{name}: found {len(lists)} lists, expected {histories}")
        return [self.known(each) for each in lists]


def _for_all(lists: ItemLists) -> bool:
    """Whether it is one list of ids, not a list for each history."""
    return all(isinstance(one, str) for one in lists)
