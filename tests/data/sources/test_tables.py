import datetime as dt
import gzip
import os
from pathlib import Path

import polars as pl
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.prepare import Report, prepare

CSV = "user_id,item_id,timestamp\n01,007,1538352000\n01,7,1538352001\n2,007,1538352002\n"
ITEMS = "item_id,title,categories\n007,\"Nuts, &amp; bolts\",\"['Shop', 'Iron']\"\n7,Seven,\n"


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


def run(folder: Path, *interactions: str, **changes) -> Report:
    options = {"name": "shop", "data_dir": str(folder / "data"), **changes}
    return prepare(PrepareConfig(interactions=interactions, **options))


def rows(folder: Path, file: str = "interactions.parquet") -> list[tuple]:
    return pl.read_parquet(folder / "data" / "shop" / file).rows()


def test_csv_becomes_the_canonical_layout_with_ids_as_written(tmp_path):
    log, items = write(tmp_path, "log.csv", CSV), write(tmp_path, "items.csv", ITEMS)
    run(tmp_path, log, items=(items,))
    assert rows(tmp_path) == [
        ("01", "007", 1538352000000),
        ("01", "7", 1538352001000),
        ("2", "007", 1538352002000),
    ]
    assert rows(tmp_path, "items.parquet") == [
        ("007", "Nuts, & bolts", "Shop,Iron"),
        ("7", "Seven", None),
    ]
    dataset = read_dataset(tmp_path / "data", "shop")
    assert dataset.user_ids == ("01", "2")
    assert dataset.catalogue.texts["title"] == ("Nuts, & bolts", "Seven")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv.gz", CSV),
        ("log.tsv", CSV.replace(",", "\t")),
        ("log.csv", "\ufeff" + CSV.replace("\n", "\r\n")),
        (
            "log.jsonl",
            '{"user_id": "01", "item_id": "007", "timestamp": 1538352000, "more": {"a": [1]}}\n\n'
            '{"timestamp": 1538352001, "user_id": "01", "item_id": 7}\n'
            '{"user_id": 2, "item_id": "007", "timestamp": "1538352002"}',
        ),
    ],
)
def test_every_text_format_gives_the_same(tmp_path, name, text):
    run(tmp_path, write(tmp_path, name, text))
    assert [row[:2] for row in rows(tmp_path)] == [("01", "007"), ("01", "7"), ("2", "007")]


def test_parquet_keeps_what_its_types_say(tmp_path):
    frame = pl.DataFrame(
        {
            "who": pl.Series(["b", "a", "a"]).cast(pl.Categorical),
            "what": pl.Series([2**40, 3, None], dtype=pl.UInt64),
            "when": [dt.datetime(2018, 10, day, tzinfo=dt.UTC) for day in (1, 2, 3)],
            "tags": [["x"], None, []],
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    report = run(
        tmp_path,
        str(tmp_path / "log.parquet"),
        user_column="who",
        item_column="what",
        timestamp_column="when",
    )
    assert [row[:2] for row in rows(tmp_path)] == [("b", str(2**40)), ("a", "3")]
    assert str(report.sheet["incomplete rows"]).startswith("incomplete rows: 1 (such as ")
    assert "row 2 has no item_id" in report.sheet["incomplete rows"].example


def test_a_folder_of_part_files_is_read_without_the_marks_of_spark(tmp_path):
    for name, line in [("part-0.csv", 0), ("part-1.csv", 1), ("sub/part-2.csv", 2)]:
        lines = CSV.splitlines()
        write(tmp_path, f"export/{name}", f"{lines[0]}\n{lines[line + 1]}\n")
    for name in ("_SUCCESS", ".part-0.csv.crc", "part-0.csv.crc", ".hidden.csv", "_meta/x.csv"):
        write(tmp_path, f"export/{name}", "no data")
    write(tmp_path, "export/part-9.csv", "")
    run(tmp_path, str(tmp_path / "export"))
    assert [row[:2] for row in rows(tmp_path)] == [("01", "007"), ("01", "7"), ("2", "007")]
    run(tmp_path, str(tmp_path / "export" / "part-*.csv"), name="glob")
    assert len(pl.read_parquet(tmp_path / "data/glob/interactions.parquet")) == 2


def test_rows_without_a_clock_are_taken_in_the_order_of_one_file(tmp_path):
    text = "user_id,item_id\nb,x\na,y\nb,w\n"
    run(tmp_path, write(tmp_path, "log.csv", text), timestamp_column="")
    assert rows(tmp_path) == [("b", "x", 0), ("b", "w", 1), ("a", "y", 0)]
    parts = [write(tmp_path, f"p{number}.csv", text) for number in range(2)]
    with pytest.raises(UserError, match="found several files and no time"):
        run(tmp_path, *parts, name="parts", timestamp_column="")


def test_a_position_is_an_order(tmp_path):
    text = "user_id,item_id,rank\na,y,12\na,x,3\n"
    run(tmp_path, write(tmp_path, "log.csv", text), position_column="rank")
    assert rows(tmp_path) == [("a", "x", 0), ("a", "y", 1)]
    bad = write(tmp_path, "bad.csv", text + "b,z,first\n")
    with pytest.raises(UserError, match=r"bad.csv, row 2, rank: found 'first', expected a whole"):
        run(tmp_path, bad, name="bad", position_column="rank")


def test_quotes_in_the_middle_and_line_breaks_in_cells_are_read(tmp_path):
    """polars' fast reader stumbles over them; the careful one does not."""
    text = 'user_id,item_id,timestamp\na,5" pipe,1538352000\na,"two\nlines",1538352001\n'
    run(tmp_path, write(tmp_path, "log.csv", text))
    assert [row[1] for row in rows(tmp_path)] == ['5" pipe', "two\nlines"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.csv", "user_id,item_id,when\n", "found columns .* and no 'timestamp', expected"),
        ("log.csv", "user,item_id,timestamp\n", "expected 'user_id' \\(--user_column\\)"),
        ("log.csv", "user_id,item_id,item_id\n", "header: found 'item_id' twice"),
        ("log.csv", CSV + "1,2,3,4\n", "line 5: found 4 cells, expected 3 as in the header"),
        ("log.csv", CSV + "1,2,soon\n", "row 3, timestamp: found 'soon', expected a time"),
        ("log.csv", "user_id,item_id,timestamp\n", "found no row with a user"),
        ("log.xlsx", "x", "found no known ending"),
        ("log.parquet", "x" * 50, "found no readable parquet file"),
        ("log.jsonl", '{"user_id": 1}\n{"user_id":\n', "line 2: found '{\"user_id\":', expected"),
        ("log.jsonl", "[1, 2]\n", "line 1: found '\\[1, 2\\]', expected a JSON object"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_nothing_is_left(tmp_path, name, text, message):
    path = write(tmp_path, name, text)
    with pytest.raises(UserError, match=message) as caught:
        run(tmp_path, path)
    assert len(str(caught.value).splitlines()) == 1
    assert not [*(tmp_path / "data").glob("*")]


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    (tmp_path / "log.csv").write_bytes(CSV.encode() + b"\xff,1,1538352000\n")
    with pytest.raises(UserError, match=r"log.csv, line .*: found no readable csv \('utf-8' codec"):
        run(tmp_path, str(tmp_path / "log.csv"))


@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz"])
def test_a_gzip_file_that_is_cut_off_is_refused(tmp_path, name):
    data = gzip.compress(os.urandom(3000).hex().encode() + b"\n")
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=f"{name}.*: found"):
        run(tmp_path, str(tmp_path / name))


def test_a_path_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="--interactions: found no file 'nowhere', expected"):
        run(tmp_path, "nowhere")
    one, other = write(tmp_path, "a.csv", CSV), write(tmp_path, "b.tsv", CSV)
    with pytest.raises(UserError, match=r"found files of several formats \(csv, tsv\)"):
        run(tmp_path, one, other)


def test_images_are_files_beside_the_catalogue_or_addresses(tmp_path):
    log = write(tmp_path, "log.csv", CSV)
    items = write(tmp_path / "shop", "items.csv", "item_id,image\n007,i/a.jpg\n7,https://a/b.jpg\n")
    report = run(tmp_path, log, items=(items,), image_column="image")
    assert rows(tmp_path, "items.parquet") == [
        ("007", None, str(tmp_path / "shop/i/a.jpg"), None),
        ("7", None, None, "https://a/b.jpg"),
    ]
    assert report.sheet["items with image"].number == 1


def test_a_catalogue_of_other_ids_is_refused(tmp_path):
    log = write(tmp_path, "log.csv", CSV)
    items = write(tmp_path, "items.csv", "item_id,title\nx,y\n")
    with pytest.raises(UserError, match=r"found no item of the interactions, such as '007'"):
        run(tmp_path, log, items=(items,))


def test_without_a_catalogue_the_items_have_no_texts_and_a_warning_says_so(tmp_path):
    report = run(tmp_path, write(tmp_path, "log.csv", CSV))
    assert rows(tmp_path, "items.parquet") == [("007", None), ("7", None)]
    assert report.sheet["items with title"].warning


def test_the_careful_json_reader_gives_the_ids_of_the_fast_one(tmp_path):
    """A line that is a Python literal sends its whole block to the careful one."""
    lines = [
        '{"user_id": 7.0, "item_id": 18446744073709551615, "timestamp": 1.538352e9}',
        '{"user_id": "7", "item_id": "x", "timestamp": "1538352001"}',
    ]
    made = []
    for name, last in (("fast", '"item_id": "y"'), ("careful", "'item_id': 'y'")):
        last = '{"user_id": 7, ' + last + ', "timestamp": 1538352002}'
        run(tmp_path, write(tmp_path, f"{name}.jsonl", "\n".join([*lines, last])), name=name)
        made.append(pl.read_parquet(tmp_path / "data" / name / "interactions.parquet").rows())
    assert made[0] == made[1]
    assert [row[:2] for row in made[0]] == [("7", str(2**64 - 1)), ("7", "x"), ("7", "y")]
