"""Interactions as arrays: batches of text ids become numbers in a few bytes a row.

Numbers follow the sorted ids, so they are the same whatever the number of threads and the
order of the files.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int8, Int32, Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.cells import ids, labels, numbers, plain, without_missing
from prmkd_jax.data.sources.place import Place, short
from prmkd_jax.data.sources.rows import FrameBatch
from prmkd_jax.data.sources.times import Clock

# Canonical name → the file's name. `position` is a whole number, `split` a place in `splits.PARTS`.
Columns = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Log:
    """Interactions, one row each.

    Attributes:
        users: number of the user, the rank of its id.
        items: number of the item, the rank of its id.
        times: microseconds since 1970 UTC, or a rank in the history.
        timed: whether `times` are times.
        user_ids: texts in the order of their numbers.
        item_ids: texts of the items, likewise.
        ratings: nan where there is none; None without ratings.
        events: number of the event's type, −1 where there is none; None without.
        event_names: the types of events.
        parts: the part that the source gives, as its place in `splits.PARTS`; None where it gives
            none.
    """

    users: Int32[np.ndarray, " rows"]
    items: Int32[np.ndarray, " rows"]
    times: Int64[np.ndarray, " rows"]
    timed: bool
    user_ids: pl.Series
    item_ids: pl.Series
    ratings: Float32[np.ndarray, " rows"] | None = None
    events: Int32[np.ndarray, " rows"] | None = None
    event_names: tuple[str, ...] = ()
    parts: Int8[np.ndarray, " rows"] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Bool[np.ndarray, " rows"] | Int64[np.ndarray, " kept"]) -> "Log":
        """Some of the rows, by a mask or by their numbers."""
        columns = {
            name: None if column is None else column[rows]
            for name in ("users", "items", "times", "ratings", "events", "parts")
            for column in (getattr(self, name),)
        }
        return dataclasses.replace(self, **columns)


@dataclasses.dataclass
class Incomplete:
    """Rows without a user, an item or a time, which are left out."""

    number: int = 0
    example: str = ""


def canonical(
    batches: Iterable[FrameBatch], columns: Columns, clock: Clock
) -> Iterator[FrameBatch]:
    """Gives batches the canonical columns and types.

    Args:
        batches: rows of one or several files.
        columns: canonical name → the file's column; `timestamp` or `position` may be missing.
        clock: reader of the times.

    Returns:
        Frames with user_id and item_id String, time Int64, and rating Float32, event String
        and split Int8 as far as they are in `columns`.

    Raises:
        UserError: a cell is no id, no time or no number.
    """
    for frame, place in batches:
        at = {name: place.of(column) for name, column in columns.items()}
        kept = {
            name: ids(frame[columns[name]], at[name]).alias(name) for name in ("user_id", "item_id")
        }
        if "timestamp" in columns:
            kept["time"] = clock.read(frame[columns["timestamp"]], at["timestamp"]).alias("time")
        elif "position" in columns:
            kept["time"] = _whole(frame[columns["position"]], at["position"])
        else:
            kept["time"] = _numbered(frame, place)
        if "rating" in columns:
            kept["rating"] = numbers(frame[columns["rating"]], at["rating"]).alias("rating")
        if "event" in columns:
            kept["event"] = labels(frame[columns["event"]], at["event"]).alias("event")
        if "split" in columns:
            kept["split"] = frame[columns["split"]].cast(pl.Int8).alias("split")
        yield FrameBatch(pl.DataFrame(kept), place)


def collect(batches: Iterable[FrameBatch], timed: bool, files: str = "") -> tuple[Log, Incomplete]:
    """Numbers users, items and events, and puts all batches together.

    Blank lines, and rows of separators alone, are no rows.

    Args:
        batches: output of `canonical`.
        timed: whether the times are times.
        files: how an error names them.

    Raises:
        UserError: there is no row.
    """
    categories = {name: pl.Categories.random() for name in ("user_id", "item_id", "event")}
    # polars forgets a numbering that no series uses any more.
    anchors = [pl.Series([], dtype=pl.Categorical(known)) for known in categories.values()]
    incomplete = Incomplete()
    parts: dict[str, list[np.ndarray]] = {}
    for frame, place in batches:
        frame = _whole_rows(frame, place, incomplete)
        for column in frame.get_columns():
            known = categories.get(column.name)
            parts.setdefault(column.name, []).append(_array(column, known))
    if not parts or not sum(map(len, parts["user_id"])):
        example = f" ({incomplete.example})" if incomplete.example else ""
        raise UserError(
            f"{files}: found no row with a user, an item and a time{example}, expected at least one"
        )
    arrays = {name: np.concatenate(parts.pop(name)) for name in list(parts)}
    names = {}
    for name in categories:
        if name in arrays:
            names[name], arrays[name] = _sorted(categories[name].to_series(), arrays[name])
    del anchors
    log = Log(
        users=arrays["user_id"],
        items=arrays["item_id"],
        times=arrays["time"],
        timed=timed,
        user_ids=names["user_id"],
        item_ids=names["item_id"],
        ratings=arrays.get("rating"),
        events=arrays.get("event"),
        event_names=tuple(names["event"]) if "event" in names else (),
        parts=arrays.get("split"),
    )
    return log, incomplete


def _whole_rows(frame: pl.DataFrame, place: Place, incomplete: Incomplete) -> pl.DataFrame:
    """The rows that are whole; counts the others, but for blank ones."""
    needed = [pl.col(name).is_not_null() for name in ("user_id", "item_id", "time")]
    whole = frame.select(pl.all_horizontal(needed)).to_series()
    if whole.all():
        return frame
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    missing = (~whole & ~blank).arg_true()
    if len(missing):
        incomplete.example = incomplete.example or _incomplete(frame, int(missing[0]), place)
        incomplete.number += len(missing)
    return frame.filter(whole)


def _array(column: pl.Series, known: pl.Categories | None) -> np.ndarray:
    """Numbers in place of a column's words; −1, or nan of ratings, where there is none."""
    if known is not None:
        codes = column.cast(pl.Categorical(known)).to_physical()
        return codes.cast(pl.Int32).fill_null(-1).to_numpy()
    if column.name == "rating":
        return column.fill_null(float("nan")).to_numpy()
    return column.to_numpy()


def _sorted(
    names: pl.Series, codes: Int32[np.ndarray, " rows"]
) -> tuple[pl.Series, Int32[np.ndarray, " rows"]]:
    """Names in their order, and the codes that point there; −1 stays."""
    order = names.arg_sort().to_numpy()
    rank = np.empty(len(order) + 1, dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    rank[-1] = -1
    return names.gather(order), rank[codes]


def _numbered(frame: pl.DataFrame, place: Place) -> pl.Series:
    """The number of each row; null for a blank one."""
    rows = pl.int_range(place.first, place.first + len(frame), dtype=pl.Int64, eager=True)
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    return rows.set(blank, None).alias("time")


def _whole(column: pl.Series, place: Place) -> pl.Series:
    column = plain(column, place, "whole numbers")
    if column.dtype.is_float():
        column = column.fill_nan(None)
    texts = without_missing(column.cast(pl.String)).str.replace(r"\.0+$", "")
    ranks = texts.cast(pl.Int64, strict=False)
    bad = (texts.is_not_null() & ranks.is_null()).arg_true()
    if len(bad):
        row = place.row(int(bad[0]))
        raise UserError(f"{row}: found {short(texts[bad[0]])}, expected a whole number")
    return ranks.alias("time")


def _incomplete(frame: pl.DataFrame, index: int, place: Place) -> str:
    missing = [name for name in ("user_id", "item_id", "time") if frame[name][index] is None]
    return f"{Path(place.file).name}, {place.word} {place.number(index)} has no {missing[0]}"
