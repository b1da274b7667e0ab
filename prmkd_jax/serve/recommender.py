"""Recommendations from an exported student: ids in, ids and scores out."""

import functools
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Int32

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.top_k import TopK, top_k
from prmkd_jax.serve.exported import USER_TABLE, Exported, read_exported
from prmkd_jax.students.layers import dot
from prmkd_jax.students.registry import about
from prmkd_jax.students.student import Params, flatten_params, structure, unflatten_params

# Histories encoded at once. Smaller batches are padded to the next of 1, 8, 64, 512, so that
# few sizes are compiled.
_MOST_ROWS = 512
_ROWS_STEP = 8
# Least sizes of the padded lists of items and of k; they grow by doubling.
_LEAST_LIST = 64
_LEAST_K = 16

ItemLists = Sequence[str] | Sequence[Sequence[str]]
"""Item ids for all histories, or a list of them for each history."""


class Recommended(NamedTuple):
    """One recommended item.

    Attributes:
        item: its id.
        score: the student's score; for `similar` the cosine.
        title: its title, where asked for and exported.
    """

    item: str
    score: float
    title: str | None = None


class Answer(NamedTuple):
    """What a history is answered with.

    Attributes:
        items: best first; fewer than k where no more are left.
        unknown_items: items of the history that the student doesn't know and that were skipped.
        known_user: whether a vector of the user's own was used.
    """

    items: list[Recommended]
    unknown_items: int
    known_user: bool


class _Rows(NamedTuple):
    """Histories as rows of the student's tables.

    Attributes:
        items: each history's known items, oldest first.
        unknown: how many each history has besides.
        users: each user's row, −1 where unknown.
    """

    items: list[list[int]]
    unknown: list[int]
    users: list[int]


class Recommender:
    """Recommends with one exported student; a batch of any size, without training data.

    A history with no item that the student knows gets no recommendation, unless the student has
    a vector for its user that depends on no history (LightGCN). Users without a vector:

    * FM, DeepFM: the mean of all user vectors stands for theirs.
    * LightGCN: the propagation's own rule, applied to the history (`fold_in_items`). It doesn't
      change the items' vectors, as it would if the user had been trained on.
    * others know no users.

    Args:
        exported: what `read_exported` gives.
    """

    def __init__(self, exported: Exported):
        self.exported = exported
        self._said = about(exported.config.student)
        self._graphdef = structure(exported.config, exported.facts)
        self._params = jax.tree.map(jnp.asarray, _with_mean_user(exported.params))
        self._items = jnp.asarray(exported.items)
        self._item_row = {item: row for row, item in enumerate(exported.item_ids)}
        self._user_row = {user: row for row, user in enumerate(exported.user_ids or ())}

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Opens the folder of an exported student.

        Raises:
            UserError: a file is missing or damaged.
        """
        return cls(read_exported(Path(folder)))

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        users: Sequence[str | None] | None = None,
        filter_seen: bool = True,
        allow: ItemLists | None = None,
        deny: ItemLists | None = None,
        explain: bool = False,
    ) -> list[Answer]:
        """The k best items of every history.

        Args:
            histories: item ids, oldest first; unknown ones are skipped and counted.
            k: how many items each gets, at most.
            users: user ids, for students that have user vectors; None for unknown users.
            filter_seen: leave out the items of the history.
            allow: the only items to choose from; unknown ones are ignored.
            deny: items to leave out.
            explain: give the items' titles where they were exported.

        Raises:
            ValueError: k is below 1, or a list has another length than `histories`.
            UserError: a user has no vector and the student can't make one.
        """
        if k < 1:
            raise ValueError(f"k: found {k}, expected at least 1")
        rows = self._rows(histories, users)
        allowed = self._lists("allow", allow, len(histories))
        denied = self._lists("deny", deny, len(histories))
        answers: list[Answer] = []
        for part in _parts(len(histories)):
            best = self._best(rows, part, k, filter_seen, allowed, denied)
            titles = self.exported.titles if explain else None
            for place, row in enumerate(part):
                found = self._recommended(best, place, k, titles) if self._can(rows, row) else []
                known = bool(self._user_row) and rows.users[row] >= 0
                answers.append(Answer(found, rows.unknown[row], known))
        return answers

    def similar(self, item: str, k: int = 10, *, explain: bool = False) -> list[Recommended]:
        """The items whose vectors have the largest cosine with an item's own.

        Args:
            item: id of the item.
            k: how many.
            explain: give the titles where they were exported.

        Raises:
            UserError: the student doesn't know the item.
        """
        if item not in self._item_row:
            raise UserError(f"similar: found item {item!r}, expected one that the student knows")
        row = self._item_row[item]
        best = _similar(self._directions, jnp.int32(row), _doubled(k, _LEAST_K))
        best = TopK(np.asarray(best.scores), np.asarray(best.items))
        return self._recommended(best, 0, k, self.exported.titles if explain else None)

    @cached_property
    def _directions(self) -> Float[Array, "V D"]:
        """Item vectors of length 1, without the columns that hold a bias."""
        similar_by, table = self._said.similar_by, self._items
        if similar_by is not None:
            table = table[:, : similar_by(self.exported.config)]
        return table / jnp.maximum(jnp.linalg.norm(table, axis=-1, keepdims=True), 1e-12)

    def _rows(
        self, histories: Sequence[Sequence[str]], users: Sequence[str | None] | None
    ) -> _Rows:
        if any(isinstance(history, str) for history in histories):
            raise ValueError("histories: found a string, expected a list of item ids a history")
        if users is not None and len(users) != len(histories):
            raise ValueError(f"users: found {len(users)}, expected {len(histories)}")
        items = [
            [self._item_row[item] for item in history if item in self._item_row]
            for history in histories
        ]
        unknown = [len(history) - len(row) for history, row in zip(histories, items, strict=True)]
        known = self._user_row
        rows = [known.get(user, -1) if user is not None else -1 for user in users or ()]
        return _Rows(items, unknown, rows or [-1] * len(items))

    def _can(self, rows: _Rows, row: int) -> bool:
        """Whether there is anything to recommend from."""
        own_vector = not self._said.user_vector_per_prefix and rows.users[row] >= 0
        return bool(rows.items[row]) or own_vector

    def _best(
        self,
        rows: _Rows,
        part: range,
        k: int,
        filter_seen: bool,
        allowed: list[list[int]] | list[int] | None,
        denied: list[list[int]] | list[int] | None,
    ) -> TopK:
        """The best items of some histories; rows past the last history mean nothing."""
        size = _padded_rows(len(part))
        excluded: list[list[int]] = [[] for _ in part]
        for out, row in zip(excluded, part, strict=True):
            if filter_seen:
                out += sorted(set(rows.items[row]))
            if denied is not None and _is_each(denied):
                out += denied[row]  # type: ignore[arg-type]
        included = None
        if allowed is not None and _is_each(allowed):
            included = _table([allowed[row] for row in part], size)  # type: ignore[misc]
        best = _top(
            self._graphdef,
            self._params,
            self._queries(rows, part, size),
            self._items,
            _doubled(k, _LEAST_K),
            jnp.asarray(_table(excluded, size)),
            None if included is None else jnp.asarray(included),
            jnp.asarray(self._valid(allowed, denied)),
        )
        return TopK(np.asarray(best.scores), np.asarray(best.items))

    def _queries(self, rows: _Rows, part: range, size: int) -> Array:
        """The user vectors of some histories, padded to `size` rows."""
        if not self._said.user_vector_per_prefix:
            return jnp.asarray(self._own_vectors(rows, part, size))
        packed, slots = self._pack(rows, part, size)
        return _encode(self._graphdef, self._params, packed, slots)

    def _own_vectors(self, rows: _Rows, part: range, size: int) -> Float[np.ndarray, "size D"]:
        users, fold_in = self.exported.users, self.exported.fold_in
        assert users is not None
        out = np.zeros((size, users.shape[1]), users.dtype)
        for place, row in enumerate(part):
            if rows.users[row] >= 0:
                out[place] = users[rows.users[row]]
            elif fold_in is None:
                raise UserError(
                    f"{self.exported.card['label']}: found a user without a vector, expected one "
                    "of the users that it was trained for"
                )
            elif rows.items[row]:
                read = sorted(set(rows.items[row]))
                out[place] = fold_in[read].sum(0) / len(read) ** 0.5
        return out

    def _pack(
        self, rows: _Rows, part: range, size: int
    ) -> tuple[PackedRows, Int32[np.ndarray, " size"]]:
        """One history a row, its newest items first cut to the window; the slots that ask."""
        window, own_slot = self.exported.facts.window, self._said.own_slot
        shape = size, window + own_slot
        item_seq, segments, positions, users = (np.zeros(shape, np.int32) for _ in range(4))
        instances, slots = np.full(shape, -1, np.int32), np.zeros(size, np.int32)
        for place in range(size):
            # Rows past the last history repeat it: all of them are finite.
            row = part[min(place, len(part) - 1)]
            read = rows.items[row][-window:]
            length = len(read) + own_slot if read else 1
            item_seq[place, : len(read)] = read
            segments[place, :length] = place + 1
            positions[place, :length] = np.arange(length)
            # The row after the last user's is the mean user's.
            users[place, :length] = rows.users[row] if rows.users[row] >= 0 else self._mean_user
            instances[place, length - 1] = 0
            slots[place] = place * shape[1] + length - 1
        return PackedRows(item_seq, segments, positions, users, instances), slots

    @property
    def _mean_user(self) -> int:
        return len(self._user_row)

    def _valid(
        self,
        allowed: list[list[int]] | list[int] | None,
        denied: list[list[int]] | list[int] | None,
    ) -> Bool[np.ndarray, " V"]:
        """The items that any history may get, by the lists that hold for all."""
        valid = np.ones(len(self._item_row), dtype=bool)
        if allowed is not None and not _is_each(allowed):
            valid[:] = False
            valid[allowed] = True
        if denied is not None and not _is_each(denied):
            valid[denied] = False
        return valid

    def _lists(
        self, name: str, lists: ItemLists | None, histories: int
    ) -> list[list[int]] | list[int] | None:
        """The rows of the items in `allow` or `deny`; unknown ids are left out."""
        if lists is None:
            return None
        row_of = self._item_row
        if all(isinstance(one, str) for one in lists):
            return [row_of[item] for item in lists if item in row_of]  # type: ignore[index]
        if len(lists) != histories:
            raise ValueError(f"{name}: found {len(lists)} lists, expected {histories}")
        return [[row_of[item] for item in each if item in row_of] for each in lists]

    def _recommended(
        self, best: TopK, place: int, k: int, titles: Sequence[str] | None
    ) -> list[Recommended]:
        ids = self.exported.item_ids
        pairs = zip(best.items[place, :k].tolist(), best.scores[place, :k].tolist(), strict=True)
        return [
            Recommended(ids[row], score, None if titles is None else titles[row])
            for row, score in pairs
            if row >= 0
        ]


# The structure is static: a newer model of the same sizes shares the compiled code.
@functools.partial(jax.jit, static_argnums=0)
def _encode(
    graphdef: nnx.GraphDef, params: Params, rows: PackedRows, slots: Int[Array, " B"]
) -> Float[Array, "B D"]:
    return nnx.merge(graphdef, nnx.State(params)).queries(rows)[slots]


@functools.partial(jax.jit, static_argnums=(0, 4))
def _top(
    graphdef: nnx.GraphDef,
    params: Params,
    queries: Array,
    items: Array,
    k: int,
    excluded: Array,
    included: Array | None,
    valid: Array,
) -> TopK:
    student = nnx.merge(graphdef, nnx.State(params))
    return top_k(
        student.score, queries, items, k, excluded=excluded, included=included, valid=valid
    )


@functools.partial(jax.jit, static_argnums=2)
def _similar(directions: Array, row: Array, k: int) -> TopK:
    return top_k(dot, directions[row][None], directions, k, excluded=row[None, None])


def _with_mean_user(params: Params) -> Params:
    """Adds a row to the users' table, if there is one: the mean of all users."""
    weights = flatten_params(params)
    tables = {
        name: np.concatenate([table, table.mean(0, keepdims=True)])
        for name, table in weights.items()
        if f".{name}".endswith(f".{USER_TABLE}")
    }
    return unflatten_params({**weights, **tables}, params) if tables else params


def _is_each(lists: Sequence[int] | Sequence[list[int]]) -> bool:
    """Whether there is a list for each history."""
    return len(lists) > 0 and isinstance(lists[0], list)


def _parts(count: int) -> Iterator[range]:
    for first in range(0, count, _MOST_ROWS):
        yield range(first, min(first + _MOST_ROWS, count))


def _padded_rows(count: int) -> int:
    size = 1
    while size < count:
        size *= _ROWS_STEP
    return size


def _doubled(count: int, least: int) -> int:
    size = least
    while size < count:
        size *= 2
    return size


def _table(lists: Sequence[Sequence[int]], rows: int) -> Int32[np.ndarray, "rows most"]:
    """Lists of item rows, padded with −1."""
    most = _doubled(max(map(len, lists), default=0), _LEAST_LIST)
    out = np.full((rows, most), -1, dtype=np.int32)
    for row, values in zip(out, lists, strict=False):
        row[: len(values)] = values
    return out
