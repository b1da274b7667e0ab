"""Reads parquet in batches of rows: pyarrow the file, polars what is computed with the columns.

polars panics at a file in which any column has times of a zone that it doesn't know, such as
+05:30. An instant doesn't depend on its zone's name, so zones become UTC on the way.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.sources.place import short

_UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError, pl.exceptions.PolarsError)
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY = 86_400
# From the first day of year 1 to the last one of 9999, in days since 1970.
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
# Whole numbers of more digits have no type in polars.
_DIGITS = 38


def parquet_names(path: Path) -> list[str]:
    """The names of a file's columns.

    Raises:
        UserError: it has one twice, or is no parquet file.
    """
    try:
        names = pq.read_schema(path).names
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(f"{path}: found column {short(twice[0])} twice, expected each once")
    return names


def parquet_frames(
    path: Path, columns: Sequence[str], rows: int, as_python: bool = False
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Some columns of a file; the others are not looked at.

    Args:
        path: the file.
        columns: their names.
        rows: rows of a frame at most.
        as_python: whether the cells become Python's, which has no value for some times.

    Returns:
        The number of a frame's first row, and the frame.

    Raises:
        UserError: the file is damaged, a column is of a type that is not read, or, for Python,
            holds such a time.
    """
    done = 0
    try:
        with pq.ParquetFile(path, coerce_int96_timestamp_unit="us") as file:
            for batch in file.iter_batches(rows, columns=list(columns)):
                batch = batch.select(list(columns))
                # What is no UTF-8 polars would take on trust.
                batch.validate(full=True)
                arrays = {name: _plain(path, name, batch[name]) for name in columns}
                for name, array in arrays.items() if as_python else ():
                    _refuse_beyond_python(path, name, array, done)
                yield done, pl.DataFrame([_series(path, *each) for each in arrays.items()])
                done += len(batch)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _series(path: Path, name: str, array: pa.Array) -> pl.Series:
    try:
        return pl.Series(name, pl.from_arrow(array))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise _odd_type(path, name, array.type) from None


def _plain(path: Path, name: str, array: pa.Array) -> pa.Array:
    """A column in a type that polars has.

    Raises:
        UserError: there is none.
    """
    kind = _plain_type(array.type)
    if kind == array.type:
        return array
    try:
        return array.cast(kind)
    except pa.ArrowException:
        raise _odd_type(path, name, array.type) from None


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The same cells without categories, zones but UTC, and types that others add to Arrow's."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        # polars has no seconds, and what it can't hold in milliseconds would be another time.
        return pa.timestamp("ms" if kind.unit == "s" else kind.unit, "UTC" if kind.tz else None)
    if pa.types.is_duration(kind):
        return pa.duration("ms" if kind.unit == "s" else kind.unit)
    if pa.types.is_decimal256(kind):
        return pa.decimal128(min(kind.precision, _DIGITS), kind.scale)
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(place)) for place in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(_plain_type(kind.key_type), _plain_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if _is_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type))


def _is_list(kind: pa.DataType) -> bool:
    lists = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
        pa.types.is_fixed_size_list,
    )
    return any(holds(kind) for holds in lists)


def _refuse_beyond_python(path: Path, name: str, array: pa.Array, first: int) -> None:
    """Refuses times that are in no calendar of Python's, by the row.

    Raises:
        UserError: there is one.
    """
    if _is_beyond(array):
        row = next(row for row in range(len(array)) if _is_beyond(array.slice(row, 1)))
        raise UserError(
            f"{path}, row {first + row}, {name}: found a time that no calendar has, expected one "
            "of the years 1 to 9999"
        )


def _is_beyond(array: pa.Array) -> bool:
    """Whether a time is among the cells, or in what they hold, that Python has no value for."""
    kind = array.type
    if pa.types.is_map(kind):
        pair = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        return _is_beyond(array.cast(pa.list_(pair)))
    if _is_list(kind):
        return _is_beyond(array.flatten())
    if pa.types.is_struct(kind):
        return any(map(_is_beyond, array.flatten()))
    if not pa.types.is_temporal(kind):
        return False
    low, high = _limits(kind)
    whole = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).drop_null().to_numpy()
    return bool(((whole < low) | (whole > high)).any())


def _limits(kind: pa.DataType) -> tuple[int, int]:
    """The least and the greatest number of a type of times that Python has a value for."""
    if pa.types.is_date32(kind):
        return _FIRST_DAY, _LAST_DAY
    day = _DAY * _PER_SECOND["ms" if pa.types.is_date64(kind) else kind.unit]
    if pa.types.is_duration(kind):
        return -999_999_999 * day, 999_999_999 * day
    if pa.types.is_time(kind):
        return 0, day - 1
    return _FIRST_DAY * day, (_LAST_DAY + 1) * day - 1


def _odd_type(path: Path, name: str, kind: pa.DataType) -> UserError:
    return UserError(f"{path}, {name}: found type {kind}, expected another one, such as text")


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: found no readable parquet file ({first_line(error)})")
