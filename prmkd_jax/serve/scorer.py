"""An exported student on the rows of its tables: rows in, rows and scores out, in padded sizes."""

from collections.abc import Callable, Sequence
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32

from prmkd_jax.ops.arrays import Array
from prmkd_jax.serve.compiled import programs_for
from prmkd_jax.serve.exported import Exported
from prmkd_jax.serve.judge import JUDGED_K, judge, judging_items
from prmkd_jax.serve.requests import Filters, IndexedHistories
from prmkd_jax.serve.rows import MOST_ROWS, doubled, history_rows, padded_lists, padded_rows
from prmkd_jax.serve.users import own_vectors, with_mean_user
from prmkd_jax.students.registry import about
from prmkd_jax.students.student import structure

# Least k that is compiled; it grows by doubling.
_LEAST_K = 16

Best = tuple[Int32[np.ndarray, "rows most"], Float32[np.ndarray, "rows most"]]
"""Items and scores, best first."""


class StudentScorer:
    """A student whose tables are on the device. At most `MOST_ROWS` histories a call.

    Sizes are padded to few, so that few programs are compiled.

    Args:
        exported: the student, from `read_exported`.

    Attributes:
        programs: what is compiled for it, and for others of its sizes.
    """

    def __init__(self, exported: Exported):
        self._exported = exported
        self._said = about(exported.config.student)
        self._params = jax.tree.map(jnp.asarray, with_mean_user(exported.params))
        self._items = jnp.asarray(exported.items)
        graphdef = structure(exported.config, exported.facts)
        self.programs = programs_for(graphdef, self._params, self._items)

    def answerable(self, items: list[int], user: int) -> bool:
        """Whether anything is known of whom to recommend to."""
        return bool(items) or (user >= 0 and not self._said.user_vector_per_prefix)

    def best(self, read: IndexedHistories, filters: Filters, k: int) -> Best:
        """At least k places of each history; rows past the last history mean nothing.

        Args:
            read: the histories.
            filters: the filters of these histories.
            k: how many items.

        Raises:
            UserError: a user has no vector and the student can't make one.
        """
        rows = padded_rows(len(read.items))
        excluded = [sorted(set(items)) if filters.seen else [] for items in read.items]
        if filters.denied is not None:
            excluded = [a + b for a, b in zip(excluded, filters.denied, strict=True)]
        included = None if filters.allowed is None else padded_lists(filters.allowed, rows)
        best = self.programs.best_items(
            self._params,
            self._queries(read, rows),
            self._items,
            self._compiled_k(k),
            padded_lists(excluded, rows),
            included,
            filters.valid,
        )
        return np.asarray(best.items), np.asarray(best.scores)

    def ranks(
        self, read: IndexedHistories, wanted: Sequence[list[int]], filter_seen: bool
    ) -> Float[np.ndarray, "rows most"]:
        """The ranks of each history's wanted items; what lies past a list's end means nothing.

        Args:
            read: the histories.
            wanted: rows of items, −1 for one that the student doesn't know.
            filter_seen: count no item of the history as a rival.

        Raises:
            UserError: as `best`.
        """
        rows = padded_rows(len(read.items))
        seen = [sorted(set(each)) if filter_seen else [] for each in read.items]
        ranked = self.programs.ranks_of(
            self._params,
            self._queries(read, rows),
            self._items,
            jnp.asarray(padded_lists(wanted, rows, least=1)),
            jnp.asarray(padded_lists(seen, rows)),
        )
        return np.asarray(ranked)

    def similar(self, row: int, k: int) -> Best:
        """At least k items by their cosine with one, itself left out; one row."""
        best = self.programs.similar_items(self._directions, jnp.int32(row), self._compiled_k(k))
        return np.asarray(best.items), np.asarray(best.scores)

    def judge(self) -> Callable[[np.ndarray, np.ndarray], float]:
        """Judges rows of known items by the answers to one-item histories, see `serve.judge`."""
        items = [[row] for row in judging_items(len(self._items))]
        blocks = []
        for first in range(0, len(items), MOST_ROWS):
            part = items[first : first + MOST_ROWS]
            some = IndexedHistories(part, [0] * len(part), [-1] * len(part))
            blocks.append(self._queries(some, padded_rows(len(part)))[: len(part)])
        queries = jnp.concatenate(blocks)
        seen = jnp.asarray(items, jnp.int32)

        def best(table: Float[Array, "V D"]) -> np.ndarray:
            valid = jnp.ones(len(table), bool)
            k = min(JUDGED_K, len(table))
            best_items = self.programs.best_items
            found = best_items(self._params, queries, table, k, seen, None, valid)
            return np.asarray(found.items)

        return judge(self._items, best)

    @cached_property
    def _directions(self) -> Float[Array, "V D"]:
        """Item vectors of length 1, without the columns that hold a bias."""
        similar_by, table = self._said.similar_by, self._items
        if similar_by is not None:
            table = table[:, : similar_by(self._exported.config)]
        return table / jnp.maximum(jnp.linalg.norm(table, axis=-1, keepdims=True), 1e-12)

    def _compiled_k(self, k: int) -> int:
        """The next size that is compiled; more than all items are not asked for."""
        return doubled(min(k, len(self._items)), _LEAST_K)

    def _queries(self, read: IndexedHistories, rows: int) -> Float[Array, "rows D"]:
        """The user vectors."""
        if not self._said.user_vector_per_prefix:
            return jnp.asarray(own_vectors(self._exported, read, rows))
        # The row after the last user's is the mean user's.
        mean = len(self._exported.user_ids or ())
        users = [mean if user < 0 else user for user in read.users]
        window = self._exported.facts.window
        packed, slots = history_rows(read.items, users, window, self._said.own_slot, rows)
        return self.programs.encode_rows(self._params, packed, slots)
