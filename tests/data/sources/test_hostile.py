"""Whatever the bytes are, a file is read or refused in one line, and nothing is left half done."""

import gzip
import io
import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources import csv_rows
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import prepare

CSV = b"""user_id,item_id,timestamp,rating
a,"x, y",1538352000,5
b,z,1538352001,4.5
a,z,1538352002,
"""
JSONL = b'{"user_id": "a", "item_id": 7, "timestamp": 1538352000}\n{"user_id": "b", "item_id": 8}\n'
LISTS = json.dumps({"0": [0, 1, 2], "1": [2, 1]}).encode()
ITEMS = json.dumps({"0": {"title": "A", "categories": ["x", ["y"]]}, "1": {"title": 5}}).encode()
PARQUET = io.BytesIO()
pl.read_csv(CSV).write_parquet(PARQUET)


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """A file with a few bytes replaced, put in or cut out, and perhaps its end."""
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 3))
        piece = draw(st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"\n", b",", b"\0"])))
        data = data[:at] + piece + data[at + length :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


def read_or_refuse(folder: Path, config: PrepareConfig) -> None:
    refusal = None
    try:
        prepare(config)
    except UserError as error:
        refusal = str(error)
    if refusal is None:
        assert read_dataset(folder / "data", "d").num_users > 0
    else:
        assert len(refusal.splitlines()) == 1
    left = [path.name for path in (folder / "data").glob("*") if path.name != "d"]
    assert left == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("log.csv", CSV),
        ("log.tsv", CSV.replace(b",", b"\t")),
        ("log.csv.gz", gzip.compress(CSV)),
        ("log.jsonl", JSONL),
        ("log.parquet", PARQUET.getvalue()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_damaged_tables(tmp_path, name, data, draw):
    path = tmp_path / name
    path.write_bytes(draw.draw(damaged(data)))
    options = {"interactions": (str(path),), "items": (str(path),), "title_column": "item_id"}
    given = PrepareConfig("table", "d", data_dir=str(tmp_path / "data"), overwrite=True, **options)
    read_or_refuse(tmp_path, given)


def test_gzip_data_that_end_before_what_is_no_text(tmp_path):
    """A wrong checksum or a cut file gives a data set or one line, and nothing half written."""
    rows = b"user_id,item_id,timestamp\n" + b"a,b,1538352000\n" * 4 + b"\xff,b,1538352000\n"
    path = tmp_path / "log.csv.gz"
    packed = bytearray(gzip.compress(rows))
    packed[-8] ^= 1  # of the checksum
    for content in (bytes(packed), bytes(packed[:-4])):
        path.write_bytes(content)
        options = {"data_dir": str(tmp_path / "data"), "interactions": (str(path),)}
        read_or_refuse(tmp_path, PrepareConfig("table", "d", **options))


@pytest.mark.parametrize("line", [b"x" * 5000, b"\xff" * 5000], ids=["text", "bytes"])
def test_a_header_without_an_end_is_not_read_into_memory(tmp_path, monkeypatch, line):
    """Ten megabytes of gzip data may be ten gigabytes."""
    monkeypatch.setattr(csv_rows, "LINE_BYTES", 1000)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(gzip.compress(line))
    options = {"data_dir": str(tmp_path / "data"), "interactions": (str(path),)}
    with pytest.raises(UserError, match=r"found a line of more than|found invalid start byte"):
        prepare(PrepareConfig("table", "d", **options))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=damaged(LISTS), items=damaged(ITEMS))
def test_damaged_json(tmp_path, lists, items):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    (raw / "d.inter.json").write_bytes(lists)
    (raw / "d.item.json").write_bytes(items)
    given = PrepareConfig(
        "lcrec", "d", data_dir=str(tmp_path / "data"), raw_dir=str(raw), overwrite=True
    )
    read_or_refuse(tmp_path, given)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=damaged(b"user_id:token\titem_id_list:token_seq\titem_id:token\n0\t0 1\t2\n0\t0\t1\n"),
    index=damaged(b"a\t0\nb\t1\nc\t2\nd\t3\n"),
    text=damaged(b"item_id:token\ttext:token_seq\na\tA &lt;b&gt;\nb\tB\n"),
)
def test_damaged_benchmark_files(tmp_path, train, index, text):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    header = b"user_id:token\titem_id_list:token_seq\titem_id:token\n"
    (raw / "d.train.inter").write_bytes(train)
    (raw / "d.valid.inter").write_bytes(header + b"0\t0 1 2\t3\n")
    (raw / "d.test.inter").write_bytes(header + b"0\t0 1 2 3\t0\n")
    (raw / "d.item2index").write_bytes(index)
    (raw / "d.text").write_bytes(text)
    given = PrepareConfig(
        "recbole", "d", data_dir=str(tmp_path / "data"), raw_dir=str(raw), overwrite=True
    )
    read_or_refuse(tmp_path, given)


@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp", "rating", "header"])
@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl"])
def test_a_line_that_refuses_a_long_cell_is_short(tmp_path, name, column):
    """The message stays below 500 characters and still says what is expected."""
    row = {"user_id": "a", "item_id": "x", "timestamp": "1538352000", "rating": "5"}
    long = {**row, column: "y" * 100_000} if column != "header" else {"y" * 100_000: "1"}
    sep = "," if name == "log.csv" else "\t"
    lines = [sep.join(long), sep.join(long.values())]
    if name == "log.jsonl":
        lines = [json.dumps(long)]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    paths = (str(tmp_path / name),)
    refusal = "expected"  # of nothing: an id may be long
    try:
        prepare(PrepareConfig(interactions=paths, name="d", data_dir=str(tmp_path / "data")))
    except UserError as error:
        refusal = str(error)
    assert "expected" in refusal
    assert len(refusal) < 500 + len(str(tmp_path))


@pytest.mark.parametrize("kind", ["link", "pipe"])
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("table", "part-1.csv"),
        ("pattern", "part-1.csv"),
        ("recbole", "s.item"),
        ("lcrec", "s.item.json"),
        ("lcrec", "s.item2id"),
        ("amazon", "meta_B.json"),
    ],
)
def test_a_file_that_leads_nowhere_is_not_passed_over(tmp_path, source, name, kind):
    """A dangling link or a pipe is an error, so no rows, names or texts go missing in silence."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "part-0.csv").write_bytes(CSV)
    if source == "recbole":
        (raw / "s.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\na\tx\t1e9\n")
    elif source == "lcrec":
        (raw / "s.inter.json").write_bytes(LISTS)
    elif source == "amazon":
        (raw / "part-0.csv").unlink()
        review = {"reviewerID": "a", "asin": "x", "unixReviewTime": 10**9, "overall": 5}
        (raw / "B.json").write_text(json.dumps(review) + "\n")
    flags = {
        "table": {"interactions": (str(raw),)},
        "pattern": {"interactions": (str(raw / "*.csv"),)},
    }.get(source, {"source": source, "raw_dir": str(raw)})
    asked = PrepareConfig(name="d", data_dir=str(tmp_path / "data"), **flags)
    prepare(asked)
    shutil.rmtree(tmp_path / "data")
    if kind == "link":
        (raw / name).symlink_to(tmp_path / "gone")
    else:
        os.mkfifo(raw / name)
    with pytest.raises(UserError, match=rf"{name}: found .*, expected a file or nothing"):
        prepare(asked)
    assert not (tmp_path / "data" / "d").exists()
