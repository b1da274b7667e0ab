"""Writes a data set in the canonical layout, complete or not at all."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int8, Int32, Int64

from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.canonical import INTERACTIONS, ITEMS, TIME_UNIT
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.sources.clean import ITEM_COLUMNS
from prmkd_jax.data.sources.filters import Ties, in_order
from prmkd_jax.data.sources.log import Log
from prmkd_jax.data.splits import PARTS

_ROWS = 1 << 20
STAGED = "items.staged.parquet"


@dataclasses.dataclass(frozen=True)
class Histories:
    """Interactions in their final order and numbering.

    Attributes:
        interactions: the histories.
        user_ids: ids in the order of the numbers.
        item_ids: ids in the order of the numbers, which is the order of the texts.
        times: microseconds since 1970 UTC; None where only the rank is known.
        tied: interactions at the same rank as another of the user; 0 where there are times.
        ratings: as in `Log`, like the following.
        events: index of `event_names`, −1 where there is none.
        event_names: the types of events.
        parts: as in `Log`, None also where they are leave-one-out's.
    """

    interactions: Interactions
    user_ids: pl.Series
    item_ids: pl.Series
    times: Int64[np.ndarray, " rows"] | None
    tied: int
    ratings: Float32[np.ndarray, " rows"] | None
    events: Int32[np.ndarray, " rows"] | None
    event_names: tuple[str, ...]
    parts: Int8[np.ndarray, " rows"] | None


def histories(log: Log, ties: Ties, by_appearance: bool) -> Histories:
    """Orders and numbers what is left.

    Args:
        log: the interactions that stay.
        ties: how equal times are ordered.
        by_appearance: whether users stand as they first appear, or by id.
    """
    users, user_ids = _renumbered(log.users, log.user_ids, by_appearance)
    items, item_ids = _renumbered(log.items, log.item_ids, by_appearance=False)
    log = dataclasses.replace(log, users=users, items=items)
    log = log.take(in_order(log, ties))
    indptr = offsets_of(np.bincount(log.users, minlength=len(user_ids)))
    return Histories(
        interactions=Interactions(indptr, log.items),
        user_ids=user_ids,
        item_ids=item_ids,
        times=log.times if log.timed else None,
        tied=0 if log.timed else _tied(log),
        ratings=log.ratings,
        events=log.events,
        event_names=log.event_names,
        parts=None if is_leave_one_out(indptr, log.parts) else log.parts,
    )


def _tied(log: Log) -> int:
    """Rows, in order, whose user has another at the same time."""
    same = np.zeros(len(log) + 1, dtype=bool)
    same[1:-1] = (log.users[1:] == log.users[:-1]) & (log.times[1:] == log.times[:-1])
    return int((same[1:] | same[:-1]).sum())


def is_leave_one_out(
    indptr: Int64[np.ndarray, " users_plus_1"], parts: Int8[np.ndarray, " rows"] | None
) -> bool:
    """Whether a given split holds out the last item, the one before it, and nothing else.

    As `data.splits.leave_one_out`, which holds nothing out of fewer than three items. True
    where there is no given split.
    """
    if parts is None:
        return True
    lengths = np.diff(indptr)
    expected = np.zeros(len(parts), dtype=np.int8)
    held_out = indptr[1:][lengths >= 3]
    expected[held_out - 1] = PARTS.index("test")
    expected[held_out - 2] = PARTS.index("validation")
    return np.array_equal(expected, parts)


def _renumbered(
    numbers: Int32[np.ndarray, " rows"], identifiers: pl.Series, by_appearance: bool
) -> tuple[Int32[np.ndarray, " rows"], pl.Series]:
    """Numbers without gaps, and the ids in their order."""
    used = np.flatnonzero(np.bincount(numbers, minlength=len(identifiers)))
    if by_appearance:
        first = np.empty(len(identifiers), dtype=np.int64)
        # The last one that is written stays: the first row of each.
        first[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)
        used = used[np.argsort(first[used])]
    rank = np.empty(len(identifiers), dtype=np.int32)
    rank[used] = np.arange(len(used), dtype=np.int32)
    return rank[numbers], identifiers.gather(used)


def write_interactions(folder: Path, data: Histories) -> None:
    """Writes interactions.parquet, user by user, oldest first.

    `timestamp` is in milliseconds since 1970 UTC; rows at the same one keep their order.
    """
    users, items = data.interactions.users, data.interactions.items
    positions = np.arange(len(items), dtype=np.int64) - data.interactions.indptr[users]
    event_names = pa.array(data.event_names, pa.string())
    part_names = pa.array(PARTS, pa.string())

    def part(rows: slice) -> pa.Table:
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            "user_id": data.user_ids.gather(users[rows]).to_arrow(),
            "item_id": data.item_ids.gather(items[rows]).to_arrow(),
        }
        if data.times is None:
            columns["position"] = pa.array(positions[rows].astype(np.int32))
        else:
            columns["timestamp"] = pa.array(data.times[rows] // 1000)
        if data.ratings is not None:
            columns["rating"] = pa.array(data.ratings[rows], from_pandas=True)
        if data.events is not None:
            codes = data.events[rows]
            columns["event"] = event_names.take(pa.array(codes, mask=codes < 0))
        if data.parts is not None:
            columns["split"] = part_names.take(pa.array(data.parts[rows]))
        table = pa.table(columns)
        for index, name in enumerate(table.column_names):
            if name in ("user_id", "item_id"):
                table = table.set_column(index, name, table[name].cast(pa.large_string()))
            if name == "timestamp":
                field = pa.field(name, pa.int64(), metadata={TIME_UNIT: "ms"})
                table = table.set_column(index, field, table[name])
        return table

    with pq.ParquetWriter(folder / INTERACTIONS, part(slice(0, 0)).schema) as writer:
        for start in range(0, len(items), _ROWS):
            writer.write_table(part(slice(start, start + _ROWS)))


def stage_items(folder: Path, frames: Iterable[pl.DataFrame]) -> int:
    """Writes cleaned catalogue rows down as they come; how many there are."""
    rows = 0
    schema = pl.DataFrame(schema=ITEM_COLUMNS).to_arrow().schema
    with pq.ParquetWriter(folder / STAGED, schema) as writer:
        for frame in frames:
            rows += len(frame)
            writer.write_table(frame.to_arrow().cast(schema))
    return rows


def titled_items(folder: Path, item_ids: pl.Series) -> np.ndarray:
    """Which items have a title among the staged rows."""
    titled = (
        pl.scan_parquet(folder / STAGED, glob=False)
        .filter(pl.col("title").is_not_null())
        .select(pl.col("item_id").unique())
        .collect(engine="streaming")
        .to_series()
    )
    return item_ids.is_in(titled.implode()).to_numpy()


def final_items(folder: Path, item_ids: pl.Series, keep_all: bool) -> tuple[pl.DataFrame, int, set]:
    """The catalogue by item id, each item once.

    Of several rows of an item the one with the most fields stays; of equally full ones, the
    first in the order of the texts.

    Args:
        folder: folder in which the rows are staged.
        item_ids: the items of the interactions.
        keep_all: whether other rows stay too.

    Returns:
        The rows; how many were left out because their item has another; ids of the rows that
        nobody interacted with.
    """
    staged = pl.scan_parquet(folder / STAGED, glob=False)
    every = staged.select(pl.col("item_id").unique()).collect(engine="streaming").to_series()
    others = set(every.filter(~every.is_in(item_ids.implode())).to_list())
    if not keep_all:
        staged = staged.join(
            pl.LazyFrame({"item_id": item_ids}), on="item_id", how="semi", maintain_order="left"
        )
    columns = [name for name in ITEM_COLUMNS if name != "item_id"]
    full = pl.sum_horizontal(pl.col(name).is_not_null() for name in columns)
    rows = staged.collect(engine="streaming")
    before = len(rows)
    rows = (
        rows.with_columns(full.alias("full"))
        .sort(["item_id", "full", *columns], descending=[False, True, *[False] * len(columns)])
        .unique("item_id", keep="first", maintain_order=True)
        .drop("full")
    )
    return rows, before - len(rows), others


def write_items(folder: Path, rows: pl.DataFrame) -> None:
    """Writes items.parquet; columns without a value are left out, but for the title."""
    kept = [
        name
        for name in rows.columns
        if name in ("item_id", "title") or rows[name].null_count() < len(rows)
    ]
    pq.write_table(rows.select(kept).to_arrow(), folder / ITEMS)
