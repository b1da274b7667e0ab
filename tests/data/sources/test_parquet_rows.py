"""Parquet files of others: what pyarrow and polars know differently, and times of any size."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources import rows
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import prepare

SECONDS = [1538352000, 1538352001, 1538352002]
LOG = {"user_id": ["a", "b", "a"], "item_id": ["x", "x", "y"], "timestamp": SECONDS}


def prepared(folder, **changes) -> list[int]:
    """The times of a data set made of `LOG` with other columns."""
    path = folder / "log.parquet"
    pq.write_table(pa.table(LOG | changes), path)
    made = prepare(PrepareConfig("table", "d", str(folder / "data"), interactions=(str(path),)))
    return sorted(pq.read_table(made.folder / "interactions.parquet")["timestamp"].to_pylist())


@pytest.mark.parametrize("zone", ["+05:30", "-08:00", "Z", "UTC", "Etc/GMT+5", "Mars/Olympus"])
@pytest.mark.parametrize("column", ["timestamp", "other"])
def test_an_instant_does_not_hang_on_its_zones_name(tmp_path, zone, column):
    """Nor does a file whose zoned column isn't read, nor one with lists of such times."""
    zoned = pa.array([second * 10**6 for second in SECONDS], pa.timestamp("us", zone))
    nested = pa.array([[0]] * 3, pa.list_(pa.timestamp("us", zone)))
    found = prepared(tmp_path, nested=nested, **{column: zoned})
    assert found == [second * 1000 for second in SECONDS]


@pytest.mark.parametrize(
    "cell",
    [
        pa.array([0, 2**62], pa.timestamp("us")),
        pa.array([0, 2**62], pa.timestamp("ms", "+05:30")),
        pa.array([None, 2**31 - 1], pa.date32()),
        pa.array([0, -(2**31)], pa.date32()),
        pa.array([0, 2**62], pa.duration("ms")),
        pa.array([[0], [0, 2**62]], pa.list_(pa.timestamp("us"))),
        pa.array([[("a", 0)], [("a", 2**62)]], pa.map_(pa.string(), pa.timestamp("us"))),
        pa.array([{"a": None}, {"a": 2**62}], pa.struct([("a", pa.timestamp("us"))])),
    ],
    ids=lambda cell: str(cell.type),
)
def test_a_time_of_a_catalogue_that_no_calendar_has_is_told_by_row(tmp_path, cell):
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["x", "y"], "title": cell}), path)
    with pytest.raises(UserError, match=r"items\.parquet, row 1, title: found a time that no cal"):
        list(rows.dicts(path, ["item_id", "title"]))


def test_cells_of_a_catalogue_are_those_of_their_types(tmp_path):
    """Categories, lists of them, zoned times, and the last moment of the calendar."""
    words = pa.array(["A", "B"]).dictionary_encode()
    columns = {
        "item_id": words,
        "categories": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), words),
        "title": pa.array([253_402_300_799_999_999, None], pa.timestamp("us", "+05:30")),
    }
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table(columns), path)
    [batch] = rows.dicts(path, list(columns), identifier="item_id")
    assert [row["categories"] for row in batch.rows] == [["A"], ["B"]]
    assert str(batch.rows[0]["title"]) == "9999-12-31 23:59:59.999999+00:00"


def test_a_type_that_is_not_read_is_told_by_its_column(tmp_path):
    """polars panics at whole numbers of 256 bits."""
    path = tmp_path / "log.parquet"
    wide = pa.array([1], pa.decimal128(38, 0)).cast(pa.decimal256(76, 30))
    pq.write_table(pa.table({"a": wide, "b": [2]}), path)
    assert [batch.frame.rows() for batch in rows.frames(path, ["b"])] == [[(2,)]]
    [batch] = rows.frames(path, ["a"])
    assert batch.frame["a"].to_list() == [1]
    huge = pa.array([10**40], pa.decimal256(76, 0))
    pq.write_table(pa.table({"a": huge}), path)
    with pytest.raises(UserError, match=r"a: found type decimal256\(76, 0\), expected another"):
        list(rows.frames(path, ["a"]))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "log.parquet"
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["user_id", "user_id"])
    pq.write_table(twice, path)
    with pytest.raises(UserError, match=r"log\.parquet: found column 'user_id' twice, expected"):
        rows.columns_of(path)
