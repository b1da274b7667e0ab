"""Columns as people have them, whatever their type, made into ids, labels and numbers."""

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sheet import MISSING
from prmkd_jax.data.sources.place import Place, short

# Whole numbers from here on are no longer told apart.
_EXACT = {pl.Float16: 2**11, pl.Float32: 2**24, pl.Float64: 2**53}


def ids(column: pl.Series, place: Place) -> pl.Series:
    """Ids as text, as they are written: leading zeros stay, and no number gets a `.0`.

    A blank cell is null. Floating-point numbers, as a tool makes of whole numbers where some
    are missing, become whole numbers again; so do decimals.

    Args:
        column: text, categoricals, whole numbers, or numbers of other types without fraction.
        place: where the column stands, for errors.

    Raises:
        UserError: the type holds no ids, or a number has a fraction.
    """
    column = plain(column, place, "text or whole numbers as ids")
    kind = column.dtype
    if kind.is_float() or kind.is_decimal():
        texts = whole_numbers(column, place, "text or a whole number as an id")
    elif kind in (pl.String, pl.Null) or kind.is_integer():
        texts = column.cast(pl.String)
    else:
        raise UserError(
            f"{place.column_of()}: found type {kind}, expected text or whole numbers as ids"
        )
    return texts.set(texts.str.strip_chars() == "", None)


def labels(column: pl.Series, place: Place) -> pl.Series:
    """Types of events as text: as ids, but yes and no and dates are labels too."""
    if column.dtype == pl.Boolean or column.dtype.is_temporal():
        column = plain(column, place, "text or whole numbers").cast(pl.String)
    return ids(column, place)


def numbers(column: pl.Series, place: Place) -> pl.Series:
    """Ratings as Float32; null where a cell is empty or stands for nothing.

    Raises:
        UserError: a cell is no number, or one that float32 can't hold.
    """
    wanted = "a number (an empty --rating_column reads none)"
    column = plain(column, place, wanted)
    if column.dtype.is_temporal():
        raise UserError(f"{place.column_of()}: found type {column.dtype}, expected {wanted}")
    if column.dtype == pl.String:
        column = without_missing(column)
        bad = column.is_not_null() & column.cast(pl.Float32, strict=False).is_null()
        if bad.any():
            row = int(bad.arg_true()[0])
            raise UserError(f"{place.row(row)}: found {short(column[row])}, expected {wanted}")
    read = column.cast(pl.Float32, strict=False)
    beyond = read.is_infinite().arg_true()
    if len(beyond):
        row = int(beyond[0])
        found = short(str(column[row]))
        raise UserError(f"{place.row(row)}: found {found}, expected a number up to 3.4e38")
    return read.fill_nan(None)


def without_missing(texts: pl.Series) -> pl.Series:
    """Cells without blanks around; null where they are empty or, as `NaN`, stand for nothing."""
    texts = texts.str.strip_chars()
    return texts.set(texts.str.to_lowercase().is_in(["", *sorted(MISSING)]), None)


def plain(column: pl.Series, place: Place, wanted: str) -> pl.Series:
    """A column of single values; categories and bytes become text.

    Args:
        column: any type.
        place: where the column stands, for errors.
        wanted: the expected form, for errors.

    Raises:
        UserError: the type holds no such values, or bytes are no text.
    """
    kind = column.dtype
    if kind.is_nested() or kind in (pl.Object, pl.Duration, pl.Time):
        raise UserError(f"{place.column_of()}: found type {kind}, expected {wanted}")
    if kind == pl.Binary:
        try:
            texts = column.cast(pl.String)
        except pl.exceptions.ComputeError:
            raise UserError(
                f"{place.column_of()}: found bytes that are not UTF-8, expected {wanted}"
            ) from None
        if texts.str.contains(r"[\x00-\x08]").any():
            # Keys of 16 bytes, such as UUIDs, are sometimes UTF-8 by chance.
            raise UserError(f"{place.column_of()}: found bytes that are no text, expected {wanted}")
        return texts
    return column.cast(pl.String) if kind in (pl.Categorical, pl.Enum) else column


def whole_numbers(column: pl.Series, place: Place, wanted: str) -> pl.Series:
    """Floating-point numbers or decimals without a fraction, as text without a `.0`.

    Raises:
        UserError: one has a fraction, or is so large that its type may have rounded it.
    """
    if column.dtype.is_decimal():
        texts = column.cast(pl.String).str.replace(r"\.0+$", "")
        odd = texts.str.contains(".", literal=True).fill_null(value=False).arg_true()
        if len(odd):
            raise UserError(f"{place.row(odd[0])}: found {texts[odd[0]][:60]}, expected {wanted}")
        return texts
    numbers, limit = column.fill_nan(None), _EXACT[type(column.dtype)]
    odd = ((numbers != numbers.floor()) | (numbers.abs() >= limit)).arg_true()
    if len(odd):
        found = numbers[odd[0]]
        if found == found // 1:
            wanted += f", less than {limit:,}, from where on type {column.dtype} isn't exact"
        raise UserError(f"{place.row(odd[0])}: found {found!r}, expected {wanted}")
    return numbers.cast(pl.Int64).cast(pl.String)
