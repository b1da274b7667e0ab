"""Which csv files polars may read; of others it would give other rows, and say nothing."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources import csv_check
from prmkd_jax.data.sources.csv_check import is_regular
from prmkd_jax.data.sources.csv_rows import SEPARATORS, careful_csv
from prmkd_jax.data.sources.rows import frames

COLUMNS = ("u", "i", "t")
PIECES = (
    *("a", "7", "é", "null", " ", "\0", "\ufeff", "'", "\\", "\u2028", "\x0b"),
    *(",", ",", ",", "\t", "\n", "\n", "\r\n", "\r"),
    *('"', '""', '"a"', '"a\nb"', '"a,b"', '"a""b"', '"\r\n"'),
)
BODIES = st.lists(st.sampled_from(PIECES), max_size=16).map("".join)
HEADERS = st.sampled_from(["u,i,t\n", "u,i,t\r\n", "\ufeffu,i,t\n", '"u",i,t\n', "\nu,i,t\n"])


def cells(made: Iterable[pl.DataFrame]) -> list[tuple] | str:
    """The rows that hold anything; "" is as empty as no cell."""
    try:
        found = [tuple(cell or None for cell in row) for frame in made for row in frame.rows()]
    except UserError as error:
        return str(error)
    return [row for row in found if any(row)]


@settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(HEADERS, BODIES, st.sampled_from(["", "\n"]), st.sampled_from([3, 2]), st.sampled_from("ct"))
@example("u,i,t\n", '"v"x",b,1\nu,c,2\n"z"y",e,3', "\n", 3, "c")
@example("u,i,t\n", "a,b,1\na,b,c,d", "\n", 2, "c")
@example("u,i,t\r\n", "a,b,1\r\r\nc,d,2\r\r", "\n", 3, "c")
def test_both_readers_give_the_same_cells_or_the_same_refusal(
    tmp_path, monkeypatch, header, body, end, width, kind
):
    """No row is lost, and no id changes without an error, whichever reader takes the file."""
    monkeypatch.setattr("prmkd_jax.data.sources.rows._ROWS", 2)
    monkeypatch.setattr(csv_check, "_PIECE", 5)
    kind = {"c": "csv", "t": "tsv"}[kind]
    swapped = str.maketrans(",\t", "\t,") if kind == "tsv" else {}
    path = tmp_path / "log"
    path.write_bytes((header + body + end).translate(swapped).encode())
    columns = COLUMNS[:width]
    careful = cells(frame for _, frame in careful_csv(path, columns, kind, True, 0, 1000))
    assert cells(batch.frame for batch in frames(path, columns, kind)) == careful


@pytest.mark.parametrize("size", [3, 4, 7, 1 << 18])
@pytest.mark.parametrize(
    ("text", "regular"),
    [
        ("", True),
        ("a,b", True),
        ("a,b\r\n\r\n", True),
        ('\ufeff"a","b""c"\n"","d,,,\n,,,e"\n', True),
        ('a,""""', True),
        ('a"b,c\n', False),
        ('"a"b",c\n', False),
        ('a, "b"\n', False),
        ('a,"b', False),
        ('a,"b"""\n"', False),
        ("a,b\r", False),
        ("a,b\r\r\n", False),
        ("a,b,\n", False),
        ("a\n\nb,c,d", False),
    ],
)
def test_what_is_regular(tmp_path, monkeypatch, text, regular, size):
    """The verdict is the same wherever a piece ends; a line has at most two cells."""
    monkeypatch.setattr(csv_check, "_PIECE", size)
    path = tmp_path / "log.csv"
    for separator in SEPARATORS.values():
        path.write_bytes(text.replace(",", separator).encode())
        assert is_regular(path, separator, 2) == regular


def test_what_cannot_be_read_is_not_regular(tmp_path):
    """A broken or missing file is left to the careful reader, whose error says more."""
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(b"\x1f\x8b\x08\x00")
    assert not is_regular(cut, ",", 2)
    assert not is_regular(Path(tmp_path / "nowhere.csv"), ",", 2)
