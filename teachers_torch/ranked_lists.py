"""Ranked lists: of each instance the best items with their scores, and one score for the rest.

What a language model, a cross-encoder or a generative recommender leaves when it has ranked a
few hundred items for each history. Lists are one after the other, as in a sparse matrix, so that
only what is listed takes room.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Int, Int64, Integer, Shaped

from prmkd_jax.common.ragged import offsets_of, places_within


@dataclasses.dataclass(frozen=True)
class SparseRows:
    """A matrix of which each row holds few columns.

    Attributes:
        offsets: row i has the entries from offsets[i] to before offsets[i + 1].
        ids: the column of each entry, at most one of a column in a row.
        values: the value of each entry.
    """

    offsets: Int64[np.ndarray, " starts"]
    ids: Integer[np.ndarray, " entries"]
    values: Float[np.ndarray, " entries"]

    def block(
        self,
        rows: Int[np.ndarray, " B"],
        columns: Int[np.ndarray, " C"],
        rest: Float[np.ndarray, " B"] | float,
    ) -> Float32[np.ndarray, "B C"]:
        """Some rows and columns as a dense array.

        Args:
            rows: the rows asked for.
            columns: the columns asked for, in any order, also several times.
            rest: the value of what a row doesn't hold.
        """
        distinct, inverse = np.unique(columns, return_inverse=True)
        out = np.empty((len(rows), len(distinct)), dtype=np.float32)
        out[:] = np.reshape(np.asarray(rest, dtype=np.float32), (-1, 1))
        start = self.offsets[rows]
        sizes = self.offsets[np.asarray(rows) + 1] - start
        entries = np.repeat(start, sizes) + places_within(sizes)
        ids = self.ids[entries]
        place = np.searchsorted(distinct, ids)
        place[place == len(distinct)] = 0
        found = distinct[place] == ids
        owner = np.repeat(np.arange(len(rows)), sizes)
        out[owner[found], place[found]] = self.values[entries[found]]
        unchanged = len(inverse) == len(distinct) and (np.diff(columns) > 0).all()
        return out if unchanged else out[:, inverse]


@dataclasses.dataclass(frozen=True)
class RankedLists:
    """One teacher's lists; the arrays may be mapped from disk.

    Attributes:
        name: the teacher's name.
        rows: row = instance id, column = item id, value = training logit. An instance whose list
            is empty is unknown to the teacher.
        rest: the logit of each item that an instance's list doesn't name.
    """

    name: str
    rows: SparseRows
    rest: Float[np.ndarray, " N"]

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        """The logits of some items; nan in the rows of unknown instances."""
        empty = self.rows.offsets[instance_ids] == self.rows.offsets[np.asarray(instance_ids) + 1]
        rest = np.where(empty, np.nan, self.rest[instance_ids])
        return self.rows.block(instance_ids, items, rest)


def narrow(ids: Int[np.ndarray, " n"], num_items: int) -> Shaped[np.ndarray, " n"]:
    """The ids in the smallest unsigned integers that hold all of a catalogue."""
    kind = next(k for k in (np.uint16, np.uint32, np.int64) if num_items - 1 <= np.iinfo(k).max)
    return ids.astype(kind)


def lowest(rows: SparseRows) -> Float32[np.ndarray, " N"]:
    """Each row's lowest value; 0 where a row is empty."""
    out = np.zeros(len(rows.offsets) - 1, dtype=np.float32)
    filled = np.flatnonzero(np.diff(rows.offsets))
    if len(filled):
        out[filled] = np.minimum.reduceat(rows.values, rows.offsets[filled])
    return out


def list_rows(top: int) -> np.dtype:
    """The type of a row of `best`: `ids` (−1 where there is none), `values` and `rest`."""
    return np.dtype([("ids", "<i4", (top,)), ("values", "<f4", (top,)), ("rest", "<f4")])


def best(scores: Float32[np.ndarray, "B V"], top: int) -> Shaped[np.ndarray, " B"]:
    """The best items of each row of scores, as `list_rows`; none of a row of nan.

    The rest is the mean of the scores that aren't listed, which keeps a row's mean.
    """
    count = min(top, scores.shape[1])
    out = np.zeros(len(scores), dtype=list_rows(top))
    out["ids"] = -1
    known = ~np.isnan(scores).all(axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    out["ids"][known, :count] = order[known, :count]
    out["values"][known, :count] = ordered[known, :count]
    if count < scores.shape[1]:
        out["rest"][known] = ordered[known, count:].mean(axis=1)
    return out


def as_lists(name: str, rows: Shaped[np.ndarray, " N"], num_items: int) -> RankedLists:
    """Rows of `best`, one an instance, as lists."""
    listed = rows["ids"] >= 0
    offsets = offsets_of(listed.sum(axis=1))
    ids = narrow(rows["ids"][listed], num_items)
    return RankedLists(name, SparseRows(offsets, ids, rows["values"][listed]), rows["rest"])


def sparse_counts(
    rows: Int[np.ndarray, " pairs"], columns: Int[np.ndarray, " pairs"], size: int
) -> SparseRows:
    """How often each (row, column) occurs, as a square matrix of `size` rows."""
    found, counts = np.unique(rows.astype(np.int64) * size + columns, return_counts=True)
    row, ids = np.divmod(found, size)
    offsets = np.searchsorted(row, np.arange(size + 1)).astype(np.int64)
    return SparseRows(offsets, narrow(ids, size), counts.astype(np.float32))
