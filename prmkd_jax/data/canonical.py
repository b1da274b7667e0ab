"""Reads a data set in the canonical layout.

    <data_dir>/<name>/interactions.parquet    user_id, item_id, and position or timestamp;
                                              optional split
    <data_dir>/<name>/items.parquet           item_id, title; optional brand, categories,
                                              description, image_feature_row, image_path
    <data_dir>/<name>/image_features.npy      [rows, d] float16, optional
    <data_dir>/<name>/clip_text_features.npy  [rows, d] float16, optional

Ids, texts and paths are strings, the rest whole numbers; `image_path` is relative to the data
set's folder or absolute; other columns are passed over. Rows are
counted from 0 in every message, as pandas and pyarrow count them.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float16, Int8, Int32, Int64

from prmkd_jax.common.arrays import open_npy
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.common.reading import is_there
from prmkd_jax.data.config import IMAGE_FEATURES
from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue, Dataset, Interactions
from prmkd_jax.data.parquet import is_text, require_once
from prmkd_jax.data.prepared import require_unchanged
from prmkd_jax.data.splits import PARTS
from prmkd_jax.data.time_units import NAMES, SMALLEST, TO_MICROSECONDS, are_dates

INTERACTIONS, ITEMS = "interactions.parquet", "items.parquet"
TIME_UNIT = b"unit"
"""Key of the column's metadata in which `prepare` says the unit of the times."""
# The smallest number of each unit: seconds, milliseconds, microseconds, nanoseconds.
_UNIT_FROM = np.array([*SMALLEST.values()])
# Microseconds that an int64 holds with room to spare, some 140,000 years.
_LATEST = 2**62
IMAGE_TEXT_FEATURES = "clip_text_features.npy"


def read_dataset(
    data_dir: Path,
    name: str,
    flag: str = "--dataset",
    candidates: str = "interactions",
    given_split: bool = False,
) -> Dataset:
    """Reads `<data_dir>/<name>` from the canonical layout.

    A history is sorted by `position`, or by `timestamp` where there is no position; equal
    timestamps keep the order of the file, and two items of a user at one position are an
    error. Users are numbered by first appearance in the file, items by first appearance in
    the histories (user by user, oldest item first). An item without a catalogue row has empty
    texts.

    Args:
        data_dir: folder of the data sets.
        name: folder of this one.
        flag: the option that an error names.
        candidates: the items to be ranked: "interactions", those that occur in a history, or
            "catalogue", those and all others of items.parquet, in its order after them.
        given_split: whether to read the column `split`, of train, validation and test.

    Returns:
        The data set; `catalogue.texts` has every field of `TEXT_FIELDS`.

    Raises:
        UserError: if a file is missing or malformed, naming the file, the row (from 0) and
            the column, the value found and what was expected.
    """
    folder = data_dir / name
    for file in (INTERACTIONS, ITEMS):
        if not (folder / file).is_file():
            raise UserError(_missing(data_dir, name, file, flag))
    require_unchanged(folder)
    interactions, user_ids, item_ids = _read_interactions(folder / INTERACTIONS, given_split)
    table = _read_items(folder)
    if candidates == "catalogue":
        item_ids = _with_new_items(item_ids, table["item_id"])
    catalogue = _align_catalogue(folder, table, item_ids)
    return Dataset(
        name=name,
        interactions=interactions,
        catalogue=catalogue,
        user_ids=tuple(user_ids.to_pylist()),
        item_ids=tuple(item_ids.to_pylist()),
    )


def _missing(data_dir: Path, name: str, file: str, flag: str) -> str:
    there = sorted(path.parent.name for path in data_dir.glob(f"*/{INTERACTIONS}"))
    made = ", or use --dataset=synthetic" if flag == "--dataset" else ""
    return (
        f"{flag}={name}: found no file {data_dir / name / file}; set --data_dir or "
        f"PRMKD_DATA_DIR to the folder that holds {name}/{file}{made} "
        f"(data sets in {data_dir}: {', '.join(there) or 'none'})"
    )


def _read_interactions(path: Path, given_split: bool) -> tuple[Interactions, pa.Array, pa.Array]:
    """The histories, and the ids of users and items in the order of their numbers."""
    strings = ("user_id", "item_id", *(["split"] if given_split else []))
    table = _read_parquet(path, strings, integers=("position", "timestamp"))
    _require(path, table, ("user_id", "item_id"))
    clock = next((name for name in ("position", "timestamp") if name in table.column_names), None)
    # Both may be there: the position orders, and the timestamp is what a split by time reads.
    has_time = "timestamp" in table.column_names and not _nulls(table, "timestamp").any()
    if clock is None:
        raise UserError(f"{path}: found no column position or timestamp, expected one of them")
    if not len(table):
        raise UserError(f"{path}: found 0 rows, expected at least one interaction")
    for column in ("user_id", "item_id"):
        _refuse_empty(path, table, column)
    _refuse_rows(path, table, clock, _nulls(table, clock), "a whole number")

    parts = _read_parts(path, table) if "split" in table.column_names else None
    users, user_ids = _encode(table["user_id"])
    items, item_ids = _encode(table["item_id"])
    times = table[clock].to_numpy()
    order = np.lexsort((times, users))
    users, items, times = users[order], items[order], times[order]
    stamps = None
    if has_time:
        stamps = microseconds(path, table["timestamp"].to_numpy(), _told_unit(path))
        stamps = None if stamps is None else stamps[order]
    if clock == "position":
        again = np.flatnonzero((users[1:] == users[:-1]) & (times[1:] == times[:-1])) + 1
        if len(again):
            row, user = int(order[again[0]]), user_ids[int(users[again[0]])].as_py()
            wanted = f"no other row of user {user!r} at this position"
            _refuse(path, row, clock, times[again[0]].item(), wanted)
    indptr = offsets_of(np.bincount(users, minlength=len(user_ids)))
    appearance = np.argsort(np.unique(items, return_index=True)[1])
    number = np.empty(len(item_ids), dtype=np.int32)
    number[appearance] = np.arange(len(item_ids), dtype=np.int32)
    parts = None if parts is None else parts[order]
    interactions = Interactions(indptr, number[items], stamps, parts)
    return interactions, user_ids, item_ids.take(pa.array(appearance))


def _read_parts(path: Path, table: pa.Table) -> Int8[np.ndarray, " rows"]:
    """Each row's part, as its place in `PARTS`."""
    place = {part: number for number, part in enumerate(PARTS)}
    found = np.array([place.get(part, -1) for part in table["split"].to_pylist()], dtype=np.int8)
    _refuse_rows(path, table, "split", found < 0, f"one of {', '.join(PARTS)}")
    return found


def _told_unit(path: Path) -> str:
    """The unit that `prepare` wrote into the column's metadata; "" where it is not there."""
    metadata = pq.read_schema(path).field("timestamp").metadata or {}
    # Somebody else's metadata may say anything by the same name, in any code.
    return metadata.get(TIME_UNIT, b"").decode(errors="replace")


def microseconds(
    path: Path, times: Int64[np.ndarray, " interactions"], unit: str = ""
) -> Int64[np.ndarray, " interactions"] | None:
    """Unix times of any unit as microseconds; the unit is known by their size, unless it is given.

    Sizes of seconds, milliseconds, microseconds and nanoseconds don't overlap from 1973 to 5138.
    Numbers that are no Unix times of that span, such as 0, 1, 2, …, and dates without signs, such
    as 2018100110, are an order and no clock: None.

    Args:
        path: the file, for errors.
        times: in the order of its rows.
        unit: that of all; any other word stands for none.

    Raises:
        UserError: the times are of different units, or one is later than int64 holds.

    >>> microseconds(Path("x"), np.array([1_500_000_000, 1_500_000_001])).tolist()
    [1500000000000000, 1500000001000000]
    >>> microseconds(Path("x"), np.array([0, 1, 2])) is None
    True
    """
    if unit in TO_MICROSECONDS:
        numerator, denominator = TO_MICROSECONDS[unit]
        most = _LATEST * denominator // numerator
        beyond = (times > most) | (times < -most)
        if beyond.any():
            row = int(np.argmax(beyond))
            _refuse(path, row, "timestamp", int(times[row]), f"a time in {NAMES[unit]}")
        return times * numerator // denominator
    sizes = np.abs(times)
    units = np.searchsorted(_UNIT_FROM, sizes, side="right") - 1
    if (units < 0).any():
        return None
    low, high = int(units.min()), int(units.max())
    if low != high:
        first = times[np.argmax(units != units[0])]
        raise UserError(
            f"{path}, column timestamp: found {times[0]} and {first}, which are of different "
            "units, expected seconds, milliseconds, microseconds or nanoseconds throughout"
        )
    if are_dates(map(int, sizes)):
        return None
    numerator, denominator = list(TO_MICROSECONDS.values())[low]
    return times * numerator // denominator


def _with_new_items(item_ids: pa.Array, catalogue: pa.ChunkedArray) -> pa.Array:
    """The items of the histories, then those that only the catalogue has."""
    known = set(item_ids.to_pylist())
    new = [item for item in catalogue.to_pylist() if item not in known]
    return pa.concat_arrays([item_ids, pa.array(new, item_ids.type)])


def _read_items(folder: Path) -> pa.Table:
    """The catalogue's table, each item once."""
    path = folder / ITEMS
    strings = ("item_id", *TEXT_FIELDS, "image_path")
    table = _read_parquet(path, strings=strings, integers=("image_feature_row",))
    _require(path, table, ("item_id", "title"))
    _refuse_empty(path, table, "item_id")
    numbers, distinct = _encode(table["item_id"])
    if len(distinct) < len(table):
        # Numbers count up by first appearance, so the first repeat is the first row below it.
        row = int(np.argmax(numbers != np.arange(len(table))))
        first = int(np.argmax(numbers == numbers[row]))
        found = table["item_id"][row].as_py()
        _refuse(path, row, "item_id", found, f"each item once (it is in row {first} already)")
    return table


def _align_catalogue(folder: Path, table: pa.Table, item_ids: pa.Array) -> Catalogue:
    """Texts and images, one row an item of `item_ids`, in its order."""
    path = folder / ITEMS
    image_features = _read_features(folder / IMAGE_FEATURES)
    image_text_features = _read_features(folder / IMAGE_TEXT_FEATURES)
    _check_images(folder, table, image_features, image_text_features)
    row_of = {item: row for row, item in enumerate(table["item_id"].to_pylist())}
    aligned = table.take(pa.array(map(row_of.get, item_ids.to_pylist()), pa.int64()))
    if aligned["item_id"].null_count == len(aligned):
        raise UserError(
            f"{path}: found no item of {INTERACTIONS}, such as {item_ids[0].as_py()!r}, expected "
            "the same item_id in both"
        )
    texts = {
        field: tuple(aligned[field].fill_null("").to_pylist())
        if field in table.column_names
        else ("",) * len(item_ids)
        for field in TEXT_FIELDS
    }
    known = set(item_ids.to_pylist())
    rows: dict[str, Any] = {
        "has_row": aligned["item_id"].is_valid().to_numpy(),
        "other_rows": tuple(item for item in row_of if item not in known),
    }
    if image_features is None:
        return Catalogue(texts, image_paths=_image_paths(folder, aligned), **rows)
    image_rows = aligned["image_feature_row"].fill_null(-1).to_numpy().astype(np.int32)
    return Catalogue(texts, image_features, image_rows, image_text_features, **rows)


def _image_paths(folder: Path, table: pa.Table) -> tuple[str, ...] | None:
    """Each item's image file, "" where it has none; None where no item has one."""
    if "image_path" not in table.column_names:
        return None
    paths = table["image_path"].fill_null("").to_pylist()
    return tuple(str(folder / path) if path else "" for path in paths) if any(paths) else None


def _check_images(
    folder: Path,
    table: pa.Table,
    image_features: Float16[np.ndarray, "images features"] | None,
    image_text_features: Float16[np.ndarray, "others wide"] | None,
) -> None:
    """Refuses features and `image_feature_row` that do not belong together."""
    column, path = "image_feature_row", folder / ITEMS
    has_column = column in table.column_names and table[column].null_count < len(table)
    if has_column and image_features is None:
        raise UserError(f"{path}: found column {column}, expected {folder / IMAGE_FEATURES} too")
    if image_features is None and image_text_features is not None:
        raise UserError(
            f"{folder / IMAGE_TEXT_FEATURES}: found no {IMAGE_FEATURES} that it could match"
        )
    if image_features is None:
        return
    if column not in table.column_names:
        raise UserError(f"{path}: found no column {column}, expected it with {IMAGE_FEATURES}")
    images = len(image_features)
    rows = table[column].fill_null(0).to_numpy()
    outside = ((rows < 0) | (rows >= images)) & ~_nulls(table, column)
    wanted = f"0 … {images - 1}, the rows of {IMAGE_FEATURES}, or null"
    _refuse_rows(path, table, column, outside, wanted)
    if image_text_features is not None and image_text_features.shape != image_features.shape:
        raise UserError(
            f"{folder / IMAGE_TEXT_FEATURES}: found shape {image_text_features.shape}, expected "
            f"{image_features.shape} as in {IMAGE_FEATURES}"
        )


def _read_features(path: Path) -> Float16[np.ndarray, "images features"] | None:
    """An array of finite float16 vectors, or None where there is no such file."""
    if not is_there(path):
        return None
    try:
        mapped = open_npy(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: found no readable .npy array ({_line(error)})") from None
    if mapped.ndim != 2 or mapped.dtype != np.float16:
        raise UserError(f"{path}: found {mapped.dtype} {mapped.shape}, expected float16 [rows, d]")
    features = np.array(mapped)
    if not features.shape[1]:
        raise UserError(f"{path}: found vectors of width 0, expected at least 1")
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = bad[0].tolist()
        _refuse(path, row, f"column {column}", float(features[row, column]), "a finite number")
    return features


def _read_parquet(path: Path, strings: Sequence[str], integers: Sequence[str]) -> pa.Table:
    """The named columns, as far as they are there, as large_string and int64."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            known = [name for name in (*strings, *integers) if name in schema.names]
            require_once(path, schema, known)
            for name in known:
                _check_type(path, name, schema.field(name).type, name in strings)
            table = file.read(columns=known)
        types = {name: pa.large_string() if name in strings else pa.int64() for name in known}
        table = table.select(known).cast(pa.schema(types))
        table.validate(full=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: found no readable parquet file ({_line(error)})") from None
    return table


def _check_type(path: Path, name: str, found: pa.DataType, is_string: bool) -> None:
    if pa.types.is_null(found):
        return  # a column without a value, which says no type
    if not (is_text(found) if is_string else pa.types.is_integer(found)):
        wanted = "string" if is_string else "int64 or int32"
        raise UserError(f"{path}, column {name}: found type {found}, expected {wanted}")


def _require(path: Path, table: pa.Table, columns: Collection[str]) -> None:
    for name in columns:
        if name not in table.column_names:
            raise UserError(f"{path}: found no column {name}, expected {' and '.join(columns)}")


def _encode(column: pa.ChunkedArray) -> tuple[Int32[np.ndarray, " rows"], pa.Array]:
    """Numbers strings by first appearance; also the strings in the order of their numbers."""
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary


def _nulls(table: pa.Table, column: str) -> Bool[np.ndarray, " rows"]:
    return table[column].is_null().to_numpy()


def _refuse_empty(path: Path, table: pa.Table, column: str) -> None:
    bad = _nulls(table, column) | (table[column].to_numpy() == "")
    _refuse_rows(path, table, column, bad, "an id")


def _refuse_rows(
    path: Path, table: pa.Table, column: str, bad: Bool[np.ndarray, " rows"], wanted: str
) -> None:
    """Refuses the first bad row, if there is one."""
    if bad.any():
        row = int(np.argmax(bad))
        _refuse(path, row, column, table[column][row].as_py(), wanted)


def _refuse(path: Path, row: int, column: str, found: object, wanted: str) -> NoReturn:
    value = "null" if found is None else repr(found)
    raise UserError(f"{path}, row {row}, {column}: found {value}, expected {wanted}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
