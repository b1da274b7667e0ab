import datetime as dt

import polars as pl
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.place import Place
from prmkd_jax.data.sources.times import Clock
from prmkd_jax.data.time_units import unit_of

PLACE = Place("log.csv", first=10, column="time")
# 2018-10-01 00:00:00 UTC
SECONDS = 1_538_352_000
BERLIN = dt.timezone(dt.timedelta(hours=2))


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([SECONDS]),
        pl.Series([SECONDS], dtype=pl.UInt32),
        pl.Series([float(SECONDS)]),
        pl.Series([SECONDS * 10**3]),
        pl.Series([SECONDS * 10**6], dtype=pl.UInt64),
        pl.Series([SECONDS * 10**9]),
        pl.Series([str(SECONDS)]),
        pl.Series([f" {SECONDS}.0 "]),
        pl.Series([str(SECONDS * 10**3)]).cast(pl.Categorical),
        pl.Series([dt.date(2018, 10, 1)]),
        pl.Series([dt.datetime(2018, 10, 1)], dtype=pl.Datetime("ns")),
        pl.Series([dt.datetime(2018, 10, 1)], dtype=pl.Datetime("ms")),
        pl.Series([dt.datetime(2018, 10, 1, 2, tzinfo=BERLIN)]),
        pl.Series([dt.datetime(2018, 10, 1)]).dt.replace_time_zone("UTC"),
        pl.Series(["2018-10-01"]),
        pl.Series(["2018-10-01 00:00:00"]),
        pl.Series(["2018-10-01T00:00:00Z"]),
        pl.Series(["2018-10-01T02:00:00+02:00"]),
        pl.Series(["2018-10-01 02:00:00+02"]),
        pl.Series(["2018-10-01 00:00:00 UTC"]),
        pl.Series(["2018-10-01 00:00:00.000000 UTC"]),
        pl.Series(["2018-10-01 02:00:00.000+02"]),
        pl.Series(["2018-10-01 02:00:00 +0200"]),
        pl.Series([SECONDS], dtype=pl.Int128),
        pl.Series([str(SECONDS)]).cast(pl.Decimal(20, 3)),
        pl.Series([str(SECONDS).encode()]),
    ],
    ids=lambda column: f"{column.dtype}-{column[0]}",
)
def test_every_form_of_one_moment_is_the_same_moment(column):
    assert Clock().read(column, PLACE).to_list() == [SECONDS * 10**6]


def test_a_column_of_dates_may_have_several_forms():
    column = pl.Series(["2018-10-01", "2018-10-01 00:00:01", None, "", "2018-10-01T02:00:02+02:00"])
    clock = Clock()
    read = clock.read(column, PLACE).to_list()
    start = SECONDS * 10**6
    assert read == [start, start + 10**6, None, None, start + 2 * 10**6]
    assert clock.said().endswith("without a zone taken as UTC")


def test_the_unit_is_said():
    clock = Clock()
    clock.read(pl.Series([SECONDS * 1000]), PLACE)
    assert clock.said() == (
        "times: milliseconds since 1970 such as 1538352000000 (told by their size)"
    )


@pytest.mark.parametrize(
    ("column", "found"),
    [
        (pl.Series([SECONDS, SECONDS * 1000]), "1538352000 \\(seconds\\) and 1538352000000"),
        (pl.Series(["2018-10-01", str(SECONDS)]), "1538352000 \\(a number\\) and 2018-10-01"),
    ],
)
def test_two_kinds_in_one_column_are_refused(column, found):
    with pytest.raises(UserError, match=f"log.csv, time: found {found}.*expected one unit"):
        Clock().read(column, PLACE)


def test_two_kinds_in_two_batches_are_refused():
    clock = Clock()
    clock.read(pl.Series([SECONDS]), PLACE)
    with pytest.raises(UserError, match="expected one unit"):
        clock.read(pl.Series([SECONDS * 1000]), PLACE)
    with pytest.raises(UserError, match="expected one unit"):
        clock.read(pl.Series(["2018-10-01"]), PLACE)


@pytest.mark.parametrize(
    ("column", "row", "found"),
    [
        (pl.Series([SECONDS, 3]), 11, "'3'"),
        (pl.Series([str(SECONDS), "soon"]), 11, "'soon'"),
        (pl.Series(["2018-02-30"]), 10, "'2018-02-30'"),
        (pl.Series(["2018-10-01", "10/11/2018"]), 11, "'10/11/2018'"),
        (pl.Series(["01.10.2018"]), 10, "'01.10.2018'"),
        (pl.Series([2**60], dtype=pl.Datetime("ms")), 10, ".*"),
        (pl.Series([20181001]), 10, "'20181001'"),
        # By their size seconds of 2033, and milliseconds of 1976 and 2609.
        (pl.Series([2018100110, 2018100209]), 10, "'2018100110'"),
        (pl.Series(["201810011000", None, "201810012359"]), 10, "'201810011000'"),
        (pl.Series([20181001100000.0]), 10, "'20181001100000.0'"),
        (pl.Series([2**63 + 5], dtype=pl.UInt64), 10, "'9223372036854775813'"),
    ],
)
def test_what_is_no_time_is_refused_with_its_row(column, row, found):
    with pytest.raises(UserError, match=f"log.csv, row {row}, time: found {found}, expected a"):
        Clock().read(column, PLACE)


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([[SECONDS]]),
        pl.Series([{"at": SECONDS}]),
        pl.Series([dt.timedelta(1)]),
        pl.Series([dt.time(1)]),
        pl.Series([True]),
    ],
    ids=lambda column: str(column.dtype),
)
def test_a_type_that_holds_no_times_is_refused(column):
    with pytest.raises(UserError, match=r"log.csv, time: found type .*, expected times or dates"):
        Clock().read(column, PLACE)


@pytest.mark.parametrize("missing", ["", " ", "NaT", "null", "<NA>", "None", "\\N", "n/a"])
def test_words_for_no_time_are_none(missing):
    assert Clock().read(pl.Series([missing, str(SECONDS)]), PLACE).to_list()[0] is None
    assert Clock().read(pl.Series([missing, "2018-10-01"]), PLACE).to_list()[0] is None


def test_fractions_of_a_second_count():
    expected = [SECONDS * 10**6 + 700_000, SECONDS * 10**6 + 200_000]
    written = pl.Series([f"{SECONDS}.700000", f"{SECONDS}.200000"])
    for column in (written, written.cast(pl.Decimal(20, 6)), written.cast(pl.Float64)):
        assert Clock().read(column, PLACE).to_list() == expected


def test_times_of_32_bits_are_read_as_they_are_and_said_to_be_coarse():
    clock = Clock()
    column = pl.Series([SECONDS], dtype=pl.Float32)
    assert clock.read(column, PLACE).to_list() == [int(column[0]) * 10**6]
    assert "32-bit" in clock.said()


def test_a_unit_that_makes_no_time_is_refused():
    with pytest.raises(
        UserError, match="row 10, time: found '1538352000000000', expected a time in"
    ):
        Clock("s").read(pl.Series([SECONDS * 10**6]), PLACE)


def test_a_given_unit_is_not_guessed():
    assert Clock("s").read(pl.Series([5, None]), PLACE).to_list() == [5_000_000, None]


def test_seconds_of_2033_are_no_dates_where_one_of_them_is_none():
    assert Clock().read(pl.Series([2018100110, 2018100160]), PLACE)[1] == 2018100160 * 10**6
    assert Clock("s").read(pl.Series([2018100110]), PLACE)[0] == 2018100110 * 10**6


def test_units_end_where_the_next_begins():
    numbers = (10**8 - 1, 10**8, 10**11 - 1, 10**11, 10**14, 10**17)
    assert [unit_of(number) for number in numbers] == [None, "s", "s", "ms", "us", "ns"]
    assert unit_of(10**20) is None
