"""Times as people have them: numbers of four units, dates, zoned timestamps; as microseconds.

A column whose cells are of two units, or dates and numbers, is refused.
"""

import dataclasses
from typing import NoReturn

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.cells import plain, without_missing
from prmkd_jax.data.sources.place import Place, short
from prmkd_jax.data.time_units import NAMES, TO_MICROSECONDS, are_dates, unit_of

# Written by BigQuery's csv; other ISO forms are known to polars.
_ZONE_WORD = r"\s*(?:UTC|GMT|Z)$"
_ZONED = r"(?i)(utc|gmt|z|:\d\d(\.\d+)?\s*[+-]\d\d(:?\d\d)?)$"
# 10/01/2018 is two days, so the year has to come first.
_YEAR_FIRST = r"^\d{4}[-/.]\d"
_FORMS = 6
_WANTED = "a time or a date such as 2018-10-01 10:00:00"
# Microseconds that an Int64 holds with room to spare, some 140,000 years.
_LATEST = 2.0**62


@dataclasses.dataclass
class Clock:
    """Reads one column's times, batch by batch, and remembers which kind they are.

    Attributes:
        unit: unit of numbers; "auto" finds it by their size.
        kind: the kind of the cells so far: a unit, or "dates".
        example: a cell of this kind, as it was written.
        naive: whether a timestamp without a zone was read as UTC.
        coarse: whether numbers were 32-bit floating-point ones.
    """

    unit: str = "auto"
    kind: str | None = None
    example: str = ""
    naive: bool = False
    coarse: bool = False

    def read(self, column: pl.Series, place: Place) -> pl.Series:
        """Turns a column into Int64 microseconds since 1970 UTC; null stays null.

        Args:
            column: numbers, text, dates or timestamps.
            place: the column's file and name, for errors.

        Raises:
            UserError: a cell is no time, or the cells are of two kinds.
        """
        column = plain(column, place, "times or dates")
        if column.dtype == pl.Null:
            return column.cast(pl.Int64)
        if column.dtype == pl.Date or isinstance(column.dtype, pl.Datetime):
            return self._dates(column, column, place)
        if column.dtype.is_numeric():
            return self._numbers(column, column, place)
        if column.dtype != pl.String:
            raise UserError(
                f"{place.column_of()}: found type {column.dtype}, expected times or dates"
            )
        return self._texts(column, place)

    def said(self) -> str:
        """One line on what the times were taken for."""
        if self.kind is None:
            return "times: none"
        zone = ", without a zone taken as UTC" if self.naive else ""
        told = "as --time_unit says" if self.unit != "auto" else "told by their size"
        if self.kind == "dates":
            return f"times: dates or timestamps such as {self.example}{zone}"
        coarse = "; as 32-bit floating-point numbers, so within a minute or two" * self.coarse
        return f"times: {NAMES[self.kind]} since 1970 such as {self.example} ({told}){coarse}"

    def _texts(self, texts: pl.Series, place: Place) -> pl.Series:
        texts = without_missing(texts)
        whole = texts.cast(pl.Int64, strict=False)
        if whole.null_count() == texts.null_count():
            return self._numbers(whole, texts, place)
        numbers = texts.cast(pl.Float64, strict=False)
        if numbers.null_count() == texts.null_count():
            return self._numbers(numbers, texts, place)
        dates = _parse_dates(texts)
        bad = texts.is_not_null() & dates.is_null()
        if not bad.any():
            return self._dates(dates, texts, place)
        number_like = bad & numbers.is_not_null()
        if number_like.any() and dates.is_not_null().any():
            first = texts.filter(dates.is_not_null())[0]
            raise _mixed(place, texts.filter(number_like)[0], "a number", first, "a date")
        _refuse(place, bad & numbers.is_null(), texts, _WANTED)

    def _dates(self, dates: pl.Series, written: pl.Series, place: Place) -> pl.Series:
        times, over = (86_400_000_000, 1)
        if isinstance(dates.dtype, pl.Datetime):
            times, over = TO_MICROSECONDS[dates.dtype.time_unit]
        # A date that no calendar has can't be shown but as a number.
        numbers = dates.to_physical()
        read = _scaled(numbers, times, over, numbers, place, "a time")
        if written.dtype == pl.String:
            self.naive |= not written.drop_nulls().str.contains(_ZONED).all()
        else:
            self.naive |= not (isinstance(dates.dtype, pl.Datetime) and dates.dtype.time_zone)
        known = written.drop_nulls()
        if len(known):
            self._same("dates", known.head(1).cast(pl.String)[0], place)
        return read

    def _numbers(self, numbers: pl.Series, written: pl.Series, place: Place) -> pl.Series:
        self.coarse |= numbers.dtype == pl.Float32
        if numbers.dtype.is_float() or numbers.dtype.is_decimal():
            numbers = numbers.cast(pl.Float64).fill_nan(None)
        else:
            wide = numbers.cast(pl.Int64, strict=False)
            lost = numbers.is_not_null() & wide.is_null()
            if lost.any():
                _refuse(place, lost, numbers, "a time")
            numbers = wide
        known = numbers.drop_nulls()
        if not len(known):
            return numbers.cast(pl.Int64)
        unit = self.unit if self.unit != "auto" else self._told(numbers, written, place)
        self._same(unit, str(written.filter(numbers.is_not_null())[0]), place)
        times, over = TO_MICROSECONDS[unit]
        return _scaled(numbers, times, over, written, place, f"a time in {NAMES[unit]}")

    def _told(self, numbers: pl.Series, written: pl.Series, place: Place) -> str:
        """The one unit of all numbers, by the smallest and the largest of them."""
        low, high = numbers.min(), numbers.max()
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        for value in (low, high):
            if unit_of(value) is None:
                wanted = (
                    "a Unix time after 1973 (a rank in the history is named by "
                    "--position_column; --time_unit sets a unit)"
                )
                _refuse(place, numbers == value, written, wanted)
        unit, other = str(unit_of(low)), str(unit_of(high))
        if unit != other:
            first, second = (str(written.filter(numbers == value)[0]) for value in (low, high))
            raise _mixed(place, first, NAMES[unit], second, NAMES[other])
        if are_dates(numbers.drop_nulls()):
            wanted = f"{_WANTED} (--time_unit={unit} takes numbers like it for {NAMES[unit]})"
            _refuse(place, numbers.is_not_null(), written, wanted)
        return unit

    def _same(self, kind: str, example: str, place: Place) -> None:
        if self.kind is None:
            self.kind, self.example = kind, example
        elif self.kind != kind:
            raise _mixed(place, example, _name(kind), self.example, _name(self.kind))


def _scaled(
    numbers: pl.Series, times: int, over: int, written: pl.Series, place: Place, wanted: str
) -> pl.Series:
    """Numbers times a factor, over another, as Int64; refuses what it can't hold."""
    beyond = (numbers.cast(pl.Float64) * (times / over)).abs() >= _LATEST
    if beyond.any():
        _refuse(place, beyond, written, wanted)
    if numbers.dtype.is_float():
        return (numbers * (times / over)).round().cast(pl.Int64)
    return numbers.cast(pl.Int64) * times // over


def _parse_dates(texts: pl.Series) -> pl.Series:
    """Text in ISO form as timestamps in UTC; null where it is none."""
    texts = (
        texts.str.replace(_ZONE_WORD, "")
        .str.replace(r"(:\d\d(?:\.\d+)?)\s+([+-]\d\d:?\d\d)$", "${1}${2}")
        # A zone of hours alone, as PostgreSQL writes it.
        .str.replace(r"(:\d\d(?:\.\d+)?[+-]\d\d)$", "${1}:00")
    )
    texts = texts.set(~texts.str.contains(_YEAR_FIRST).fill_null(value=True), None)
    dates = pl.repeat(None, len(texts), dtype=pl.Datetime("us", "UTC"), eager=True)
    # polars reads the form of a column's first cell; a column may have several forms.
    for _ in range(_FORMS):
        left = (dates.is_null() & texts.is_not_null()).arg_true()
        if not len(left):
            break
        more = texts.gather(left).str.to_datetime(time_zone="UTC", time_unit="us", strict=False)
        if not more.is_not_null().any():
            break
        dates = dates.scatter(left, more)
    return dates


def _name(kind: str) -> str:
    return NAMES.get(kind, "a date")


def _mixed(place: Place, first: str, kind: str, second: str, other: str) -> UserError:
    return UserError(
        f"{place.column_of()}: found {first[:60]} ({kind}) and {second[:60]} ({other}), "
        "expected one unit; --time_unit sets it"
    )


def _refuse(place: Place, bad: pl.Series, written: pl.Series, wanted: str) -> NoReturn:
    index = int(bad.arg_true()[0])
    raise UserError(f"{place.row(index)}: found {short(str(written[index]))}, expected {wanted}")
