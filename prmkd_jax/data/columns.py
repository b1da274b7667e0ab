"""The items that the distillation scores for a batch, and which of them count for whom."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from prmkd_jax.common.ragged import places_within
from prmkd_jax.data.batches import Batch
from prmkd_jax.data.task import Task

# The offset of what is never read: past all.
_NEVER = np.iinfo(np.int64).max


class Columns(NamedTuple):
    """C items as columns of a batch's scores.

    NumPy arrays on the host; inside a jitted function the same record holds JAX arrays.

    Attributes:
        candidates: item ids. Of the batch's targets C = B, padded with item 0; of the whole
            catalogue C = V; closed, a fixed number, padded with item 0.
        target_column: column of each instance's own target; 0 at padding.
        valid: columns that count for each instance: distinct candidates, without the other
            items of the user's training history if they are `out`. The own target always counts.
        scored: the valid columns in which the teachers' scores count; they give the others no
            share. None where those are all.
    """

    candidates: Int32[np.ndarray, " C"]
    target_column: Int32[np.ndarray, " B"]
    valid: Bool[np.ndarray, "B C"]
    scored: Bool[np.ndarray, "B C"] | None = None


Seen = Literal["out", "unwanted", "scored"]
SEEN: tuple[Seen, ...] = get_args(Seen)
"""What the other items of an instance's user are as columns: all in the training part are `out`;
those of the prefix count, but are `unwanted` by the teachers; or they are `scored` like any other.
"""


def in_batch_columns(task: Task, batch: Batch, *, seen: Seen, deduplicate: bool = True) -> Columns:
    """The batch's targets as columns.

    Args:
        task: data and split; only training histories are masked, a user's later items are never
            read.
        batch: a batch of the task's training instances.
        seen: the name of a rule for seen items, from `SEEN`.
        deduplicate: one column for each distinct item, in the order of the ids. Else a column for
            each instance, in the order of the batch: an item may then count several times, the own
            target too.
    """
    targets = batch.targets[batch.is_instance]
    distinct, inverse = np.unique(targets, return_inverse=True)
    columns = _columns(task, batch, distinct, inverse, seen)
    size = len(batch.targets)
    if deduplicate:
        return _padded(columns, size)

    def repeated(mask: Bool[np.ndarray, "B C"]) -> Bool[np.ndarray, "B B"]:
        out = np.zeros((size, size), dtype=bool)
        out[:, batch.is_instance] = mask[:, inverse]
        return out

    scored = None if columns.scored is None else repeated(columns.scored)
    return Columns(batch.targets, np.arange(size, dtype=np.int32), repeated(columns.valid), scored)


def catalogue_columns(task: Task, batch: Batch, *, seen: Seen) -> Columns:
    """All items as columns, under the same masks as `in_batch_columns`."""
    items = np.arange(task.dataset.num_items, dtype=np.int32)
    targets = batch.targets[batch.is_instance]
    return _columns(task, batch, items, targets, seen)


def closed_columns(
    task: Task,
    batch: Batch,
    wanted: Int[np.ndarray, "B k"],
    size: int,
    *,
    seen: Seen,
) -> tuple[Columns, int]:
    """The batch's targets and the items that its rows want, each once, in a fixed number.

    Where there are too many, those that the fewest rows want are left out, the higher ids first.

    Args:
        task: data and split, as in `in_batch_columns`.
        batch: the instances, as in `in_batch_columns`.
        wanted: items that each row wants, −1 for none; those of rows at padding are not read.
        size: C, at least the number of distinct targets.
        seen: the name of a rule for seen items, from `SEEN`.

    Returns:
        The columns, and how many distinct items found no room.

    Raises:
        ValueError: there are more distinct targets than columns.
    """
    targets = batch.targets[batch.is_instance]
    distinct = np.unique(targets)
    if len(distinct) > size:
        raise ValueError(f"{len(distinct)} targets for {size} columns")
    asked = wanted[batch.is_instance].reshape(-1)
    counts = np.bincount(asked[asked >= 0], minlength=task.dataset.num_items)
    counts[distinct] = 0
    more = np.flatnonzero(counts)
    order = np.argsort(-counts[more], kind="stable")
    kept = more[order[: size - len(distinct)]]
    items = np.sort(np.concatenate([distinct, kept])).astype(np.int32)
    place = np.searchsorted(items, targets)
    columns = _columns(task, batch, items, place, seen)
    return _padded(columns, size), len(more) - len(kept)


def _padded(columns: Columns, size: int) -> Columns:
    """Columns that never count, up to `size`."""
    missing = size - len(columns.candidates)

    def pad(mask: Bool[np.ndarray, "B C"]) -> Bool[np.ndarray, "B size"]:
        return np.pad(mask, ((0, 0), (0, missing)))

    return Columns(
        candidates=np.pad(columns.candidates, (0, missing)),
        target_column=columns.target_column,
        valid=pad(columns.valid),
        scored=None if columns.scored is None else pad(columns.scored),
    )


def _columns(
    task: Task,
    batch: Batch,
    items: Int32[np.ndarray, " C"],
    target_column: Int[np.ndarray, " instances"],
    seen: Seen,
) -> Columns:
    """Ascending items as columns; `target_column` leaves padding out."""
    size = len(batch.targets)
    padded = np.zeros(size, dtype=np.int32)
    padded[batch.is_instance] = target_column
    valid = np.zeros((size, len(items)), dtype=bool)
    valid[batch.is_instance] = True
    if seen == "scored":
        return Columns(items, padded, valid)
    ids = batch.instance_ids[batch.is_instance]
    users, place = np.unique(task.dataset.interactions.users[ids], return_inverse=True)
    first = _first_read(task, users, items)[place]
    others = valid.copy()
    others[batch.is_instance] = first >= (ids[:, None] if seen == "unwanted" else _NEVER)
    others[batch.is_instance, target_column] = True
    if seen == "unwanted":
        return Columns(items, padded, valid, others)
    return Columns(items, padded, others)


def _first_read(
    task: Task, users: Int32[np.ndarray, " users"], items: Int32[np.ndarray, " C"]
) -> Int64[np.ndarray, "users C"]:
    """Offsets at which ascending items first stand in the users' training histories; `_NEVER`.

    A history is searched for the items, or the items for the history, whichever is shorter, and
    once however many of the batch's rows are its user's: one of 50,000 items costs what one of
    C does.
    """
    read = task.read_items
    start = read.offsets[users]
    sizes = read.offsets[users + 1] - start
    out = np.full((len(users), len(items)), _NEVER)
    short = sizes <= len(items)
    rows = np.repeat(np.flatnonzero(short), sizes[short])
    known = np.repeat(start[short], sizes[short]) + places_within(sizes[short])
    place = np.searchsorted(items, read.items[known])
    place[place == len(items)] = 0
    hits = items[place] == read.items[known]
    out[rows[hits], place[hits]] = read.first[known[hits]]
    for row in np.flatnonzero(~short):
        history = slice(start[row], start[row] + sizes[row])
        place = np.minimum(np.searchsorted(read.items[history], items), sizes[row] - 1)
        hits = read.items[history][place] == items
        out[row, hits] = read.first[history][place[hits]]
    return out
