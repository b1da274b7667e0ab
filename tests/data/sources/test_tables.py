import datetime as dt
import decimal
import gzip
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
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
    """Where polars' fast reader fails on them, the careful reader takes over."""
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


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (",user_id,item_id,timestamp", "0,a,007,1538352000"),
        ("user_id,item_id,timestamp,,", "a,007,1538352000,,"),
    ],
)
def test_columns_without_a_name_are_nobodys(tmp_path, header, row):
    """An unnamed column, as pandas writes its index, is read as no column at all."""
    run(tmp_path, write(tmp_path, "log.csv", f"{header}\n{row}\n"))
    assert rows(tmp_path) == [("a", "007", 1538352000000)]


def test_blank_lines_are_no_rows_and_none_is_lost(tmp_path, monkeypatch):
    """polars counts them as rows; where it fails, the careful reader goes on from there."""
    monkeypatch.setattr("prmkd_jax.data.sources.rows._ROWS", 3)
    lines = [f"u{n % 3},i{n},{1538352000 + n}\n" + "\n" * (n % 2) for n in range(40)]
    for end in ("", 'v,5" pipe,1538359000\n'):
        text = "user_id,item_id,timestamp\n\n" + "".join(lines) + end + ",,\n"
        report = run(tmp_path, write(tmp_path, "log.csv", text), overwrite=True)
        assert len(rows(tmp_path)) == 40 + bool(end)
        assert report.sheet["incomplete rows"].number == 0


def test_a_quote_that_is_never_closed_swallows_no_row(tmp_path):
    log = write(tmp_path, "log.csv", CSV)
    text = 'item_id\ttitle\n007\t"12 inch\n7\tplain\n8\t"quoted" pipe\n'
    items = write(tmp_path, "items.tsv", text)
    with pytest.raises(UserError, match=r"items.tsv, lines 2 to 4: found no readable tsv .*quote"):
        run(tmp_path, log, items=(items,))
    items = write(tmp_path, "items.tsv", text.replace('"12', "12"))
    run(tmp_path, log, items=(items,))
    assert rows(tmp_path, "items.parquet")[0] == ("007", "12 inch")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # Text behind a closing quote belongs to the cell, as Python and Excel read it.
        ('a,u,0\n"5"" pipe",u,1\n"6" pipe",u,2\n"7" pipe",u,3\nd,u,4\n', '5" pipe|6 pipe"|7 pipe"'),
        ('a,u,0\n12" x 3,u,1\n7" pipe,u,2\nd,u,4\n', '12" x 3|7" pipe'),
    ],
)
def test_quotes_in_pairs_swallow_no_row_of_interactions(tmp_path, text, found):
    """Each row keeps its own id, although polars counts quotes in pairs to find line ends."""
    text = "item_id,user_id,position\n" + text
    run(tmp_path, write(tmp_path, "log.csv", text), position_column="position", timestamp_column="")
    assert [row[1] for row in rows(tmp_path)] == ["a", *found.split("|"), "d"]


def test_a_quote_behind_a_closing_one_swallows_no_row(tmp_path):
    """The rows after it aren't swallowed: an open last cell is an error with its line number."""
    log = write(tmp_path, "log.csv", CSV + '"v"x,"b\n1,7,1538352000\n')
    with pytest.raises(UserError, match=r"log.csv, line 5: found no readable csv .*expected a quo"):
        run(tmp_path, log)


def test_a_cell_too_many_is_refused_though_its_column_is_not_read(tmp_path):
    """Otherwise a comma in a title would move the cells behind it to other columns."""
    text = "title,user_id,item_id,timestamp\nNuts,a,1,1538352000\nNuts, bolts,a,2,1538352001\n"
    with pytest.raises(UserError, match=r"log.csv, line 3: found 5 cells, expected 4 as in the he"):
        run(tmp_path, write(tmp_path, "log.csv", text))


def test_odd_ends_of_lines_are_read_alike_in_interactions_and_catalogue(tmp_path):
    """An id keeps its catalogue row, whatever carriage returns end the line."""
    text = "timestamp,user_id,item_id\r\n1538352000,u,007\r\r\n1538352001,u,7\r\r\n"
    items = write(tmp_path, "items.csv", "title,item_id\r\nA,007\r\r\nB,7\r\r\n")
    run(tmp_path, write(tmp_path, "log.csv", text), items=(items,))
    assert [row[1] for row in rows(tmp_path)] == ["007", "7"]
    assert rows(tmp_path, "items.parquet") == [("007", "A"), ("7", "B")]


def test_part_files_without_a_line_are_passed_over(tmp_path):
    """Spark writes a part file for every task, with or without rows."""
    folder = tmp_path / "export"
    write(folder, "part-0.csv", "\n")
    write(folder, "part-1.csv", CSV)
    (folder / "part-2.csv.gz").write_bytes(gzip.compress(b""))
    write(folder, "part-3.csv", CSV.splitlines()[0])
    run(tmp_path, str(folder))
    assert len(rows(tmp_path)) == 3


@pytest.mark.parametrize("sign", ["[1]", "*", "?"])
def test_folders_and_names_with_the_signs_of_patterns(tmp_path, sign):
    """`[1]`, `*` and `?` in a path stand for themselves."""
    folder = tmp_path / f"data{sign}"
    log, items = write(tmp_path, "log.csv", CSV), write(tmp_path, "items.csv", ITEMS)
    named = {} if sign != "[1]" else {"name": f"shop{sign}"}  # * and ? are in no name
    report = run(folder, log, items=(items,), need_title=True, **named)
    assert pl.read_parquet(report.folder / "items.parquet", glob=False).height == 2


def test_the_header_is_that_of_the_file_itself(tmp_path):
    """`log[1].parquet` isn't taken for a pattern that stands for `log1.parquet`."""
    whole = pl.DataFrame({"user_id": ["a"], "item_id": ["7"], "timestamp": [1538352000]})
    whole.write_parquet(tmp_path / "log[1].parquet")
    whole.drop("item_id").write_parquet(tmp_path / "log1.parquet")
    run(tmp_path, str(tmp_path / "log[1].parquet"))
    assert rows(tmp_path) == [("a", "7", 1538352000000)]


def test_a_file_with_two_names_is_read_once(tmp_path):
    """`latest.csv` beside the part that it leads to would double that part's rows."""
    path = write(tmp_path / "log", "day-1.csv", CSV)
    (tmp_path / "log/latest.csv").symlink_to("day-1.csv")
    (tmp_path / "log/again").symlink_to(".")
    report = run(tmp_path, str(tmp_path / "log"), path, str(tmp_path / "log/../log/day-1.csv"))
    assert len(rows(tmp_path)) == 3
    assert "1 file of interactions" in report.notes


def test_parts_in_a_folder_that_is_a_link_are_read(tmp_path):
    """Where months lie on another disk their rows would be missing in silence."""
    write(tmp_path / "log", "2018.csv", CSV)
    write(tmp_path / "old", "2017.csv", CSV.replace("2,", "3,"))
    (tmp_path / "log/old").symlink_to(tmp_path / "old")
    run(tmp_path, str(tmp_path / "log"))
    assert {row[0] for row in rows(tmp_path)} == {"01", "2", "3"}


def test_part_files_below_folders_that_a_pattern_names(tmp_path):
    for day in ("dt=2018-10-01", "dt=2018-10-02", "_temporary"):
        write(tmp_path / "export" / day, "part-0.csv", CSV.replace("01,", f"{day},"))
    run(tmp_path, f"{tmp_path}/export/*")
    assert {row[0] for row in rows(tmp_path)} >= {"dt=2018-10-01", "dt=2018-10-02"}
    assert not any("temporary" in row[0] for row in rows(tmp_path))


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_columns_do_not_hang_on_which_part_file_comes_first(tmp_path, names):
    one, other = CSV, "user_id,item_id,timestamp,rating\nb,7,1538352009,5\n"
    paths = [
        write(tmp_path / names[number], "part.csv", text)
        for number, text in enumerate((one, other))
    ]
    with pytest.raises(UserError, match=r"part.csv: found columns .* expected 'rating' as in"):
        run(tmp_path, *paths)
    run(tmp_path, *paths, rating_column="")
    assert len(rows(tmp_path)) == 4


def test_json_cells_that_hold_no_value_or_several(tmp_path):
    lines = '{"user_id": NaN, "item_id": 7, "timestamp": 1538352000}\n'
    lines += '{"user_id": "a", "item_id": "[7", "timestamp": 1538352000}\n'
    report = run(tmp_path, write(tmp_path, "log.jsonl", f"\n{lines}"))
    assert rows(tmp_path) == [("a", "[7", 1538352000000)]
    assert report.sheet["incomplete rows"].number == 1
    assert report.sheet["incomplete rows"].example == "log.jsonl, line 2 has no user_id"
    bad = write(tmp_path, "bad.jsonl", lines + lines.replace('"[7"', "[7]"))
    with pytest.raises(UserError, match=r"bad.jsonl, line 4, item_id: found \[7\], expected text"):
        run(tmp_path, bad, name="bad")


@pytest.mark.parametrize("end", ["\n", ""])
def test_blank_lines_of_json_are_counted(tmp_path, end):
    lines = ["", row(when=1538352000), " ", "\r", row(when=1538352001), "", row(when='"soon"')]
    log = write(tmp_path, "log.jsonl", "\n".join(lines) + end)
    with pytest.raises(UserError, match=f"^{log}, line 7, timestamp: found 'soon', expected"):
        run(tmp_path, log)


def row(when: object) -> str:
    return f'{{"user_id": "u", "item_id": "i", "timestamp": {when}}}'


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    (tmp_path / "log.csv").write_bytes(CSV.encode() + b"\xff,1,1538352000\n")
    with pytest.raises(UserError, match=r"log.csv, line 5: found invalid start byte \(0xff\), exp"):
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


@pytest.mark.parametrize(
    ("cell", "column", "expected"),
    [
        ("https://a/?id=1&region=us&copy=2", "image_url", "https://a/?id=1&region=us&copy=2"),
        ("https://a/?id=1&amp;w=2", "image_url", "https://a/?id=1&w=2"),
        ("a  b&lt.jpg", "image_path", "{folder}/a  b&lt.jpg"),
        ("<b>.jpg", "image_path", "{folder}/<b>.jpg"),
        ("loop.jpg", "image_path", "{folder}/loop.jpg"),
    ],
)
def test_an_images_name_is_no_text_to_be_cleaned(tmp_path, cell, column, expected):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    log = write(tmp_path, "log.csv", CSV)
    items = write(tmp_path, "items.csv", f"item_id,image_path\n007,{cell}\n")
    run(tmp_path, log, items=(items,))
    written = pl.read_parquet(tmp_path / "data/shop/items.parquet")
    assert written[column].to_list() == [expected.format(folder=tmp_path)]


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


@pytest.mark.parametrize("first", ["1970-01-01", "1972-12-31", "1973-01-01"])
def test_dates_that_no_unit_tells_are_still_a_clock(tmp_path, first):
    """Such a date isn't taken for seconds, though its milliseconds have their size."""
    text = f"user_id,item_id,timestamp\na,7,{first}\na,007,2018-10-01\n"
    report = run(tmp_path, write(tmp_path, "log.csv", text))
    line = report.sheet["times before 1973 or after 2099"]
    assert (line.number, bool(line.warning)) == ((0, False) if first > "1973" else (1, True))
    stamps = read_dataset(tmp_path / "data", "shop").interactions.timestamps
    assert stamps is not None
    days = (dt.date.fromisoformat(first) - dt.date(1970, 1, 1)).days
    assert stamps.tolist() == [days * 86_400_000_000, 1538352000_000_000]


def test_a_rank_that_comes_twice_is_a_warning(tmp_path):
    text = "user_id,item_id,rank\na,y,1\na,x,1\nb,x,1\n"
    report = run(tmp_path, write(tmp_path, "log.csv", text), position_column="rank")
    line = report.sheet["interactions at the same position as another"]
    assert (line.number, bool(line.warning)) == (2, True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["5", " 4.5 ", "", "NaN", "<NA>"], [5.0, 4.5, None, None, None]),
        ([b"5", b"4", None, b"1", b"2"], [5.0, 4.0, None, 1.0, 2.0]),
        ([True, False, None, True, True], [1.0, 0.0, None, 1.0, 1.0]),
        (
            ["5", "inf", None, "2", "1"],
            "row 1, rating: found 'inf', expected a number up to 3.4e38",
        ),
        (["5", "4", "1e39", "2", "1"], "row 2, rating: found '1e39', expected a number up to"),
        ([5.0, -1e39, None, 2.0, 1.0], "row 1, rating: found '-1e.39', expected a number up to"),
        (["5 stars", "4", "3", "2", "1"], "row 0, rating: found '5 stars', expected a number"),
        ([[5], [4], [3], [2], [1]], "found type List"),
        ([dt.date(2018, 10, 1)] * 5, "found type Date, expected a number"),
    ],
    ids=str,
)
def test_ratings_are_numbers(tmp_path, values, expected):
    table = {"user_id": ["a"] * 5, "item_id": range(5), "timestamp": range(10**9, 10**9 + 5)}
    path = tmp_path / "log.parquet"
    pl.DataFrame({**table, "rating": values}, strict=False).write_parquet(path)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=f"log.parquet.*{expected}"):
            run(tmp_path, str(path))
        run(tmp_path, str(path), rating_column="")
    else:
        run(tmp_path, str(path))
        assert [row[3] for row in rows(tmp_path)] == expected


def test_types_of_events_are_labels_whatever_their_type(tmp_path):
    table = {"user_id": ["a"] * 3, "item_id": range(3), "timestamp": range(10**9, 10**9 + 3)}
    path = tmp_path / "log.parquet"
    for values in ([1.0, None, 2.0], [1, None, 2], ["1", " ", "2"], [b"1", None, b"2"]):
        pl.DataFrame({**table, "event": values}).write_parquet(path)
        run(tmp_path, str(path), events=("1",), overwrite=True)
        assert [row[3] for row in rows(tmp_path)] == ["1"]


def test_ids_of_the_catalogue_are_read_as_those_of_the_interactions(tmp_path):
    log = write(tmp_path, "log.csv", CSV.replace("007", "8"))
    for values in (["7", "8"], [7.0, 8.0], [b"7", b"8"]):
        column = pl.Series(values)
        for made in (column, column.cast(pl.Decimal(9, 2)) if values == [7.0, 8.0] else column):
            pl.DataFrame({"item_id": made, "title": ["x", "y"]}).write_parquet(
                tmp_path / "i.parquet"
            )
            run(tmp_path, log, items=(str(tmp_path / "i.parquet"),), overwrite=True)
            assert rows(tmp_path, "items.parquet") == [("7", "x"), ("8", "y")]


def test_one_column_is_not_two(tmp_path):
    with pytest.raises(UserError, match="--item_column: found 'user_id', the column of --user_col"):
        run(tmp_path, write(tmp_path, "log.csv", CSV), item_column="user_id")


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        (r'"a\ud83d"', r"'a\\ud83d', which has half a character, expected whole ones"),
        (r'"a\udc00b"', r"'a\\udc00b', which has half a character, expected whole ones"),
        ("true", "True, expected text or a whole number as an id"),
        ("7.5", "7.5, expected text or a whole number as an id"),
        ("9007199254740993.0", "9007199254740992.0, expected text or a whole number as an id"),
        ("1e300", "1e[+]300, expected text or a whole number as an id"),
    ],
)
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_what_is_no_id_in_json_is_told_by_line(tmp_path, column, cell, found):
    sound = {"user_id": '"u"', "item_id": '"i"', "timestamp": "1538352000"}
    lines = [", ".join(f'"{name}": {value}' for name, value in row.items()) for row in (
        sound, {**sound, column: cell})]  # fmt: skip
    log = write(tmp_path, "log.jsonl", "".join(f"{{{line}}}\n" for line in lines))
    with pytest.raises(UserError, match=f"^{log}, line 2, {column}: found {found}$"):
        run(tmp_path, log)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_key_of_json_is_read_wherever_it_first_stands(tmp_path, end):
    """Ratings, brands and prices that first appear a megabyte into a file aren't lost."""
    filler = "x" * 1000
    log = "".join(
        f'{{"user_id": "u", "item_id": "i", "timestamp": {1538352000 + n}, "note": "{filler}"}}\n'
        for n in range(1200)
    )
    last = '{"user_id": "u", "item_id": "i", "timestamp": 1538362000, "rating": 5, "event": "buy"}'
    items = f'{{"item_id": "j", "title": "{filler}"}}\n' * 1200
    # What polars can't put into one column: the careful reader looks for the keys then.
    items += '{"item_id": "k", "title": {"en": "x"}}\n{"item_id": "k", "title": [1]}\n'
    items += '{"item_id": "i", "brand": "B", "categories": ["C"], "description": "D", '
    items += '"price": 7, "image_path": "a.png"}\n'
    paths = [
        write(tmp_path, f"{name}.jsonl{end}", text)
        for name, text in (("log", log + last), ("items", items))
    ]
    run(tmp_path, paths[0], items=(paths[1],))
    made = pl.read_parquet(tmp_path / "data/shop/interactions.parquet").row(-1, named=True)
    assert (made["rating"], made["event"]) == (5.0, "buy")
    assert pl.read_parquet(tmp_path / "data/shop/items.parquet").row(0, named=True) == {
        **{"item_id": "i", "title": None, "brand": "B", "categories": "C", "description": "D"},
        **{"price": 7.0, "image_path": str(tmp_path / "a.png")},
    }


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("[" * 900 + '"x"' + "]" * 900, "lists nested more than 64 deep"),
        ('{"a": ' * 500 + "1" + "}" * 500, "lists nested more than 64 deep"),
        ("0x" + "f" * 4000, "a number of more than 4300 digits"),
    ],
)
@pytest.mark.parametrize("column", ["title", "categories", "price", "image_path", "item_id"])
def test_a_cell_of_json_that_nobody_could_read_is_told_by_line(tmp_path, cell, found, column):
    """Deep nesting and huge numbers end in one line, not in a RecursionError."""
    log = write(tmp_path, "log.csv", CSV)
    line = {"item_id": '"7"', "title": '"Seven"', column: cell}
    second = ", ".join(f'"{name}": {value}' for name, value in line.items())
    items = write(tmp_path, "items.jsonl", f'{{"item_id": "007"}}\n\n{{{second}}}\n')
    with pytest.raises(UserError, match=f"^{items}, line 3: found {found}, expected at most that$"):
        run(tmp_path, log, items=(items,))


def test_a_price_of_hundreds_of_digits_is_none(tmp_path):
    log = write(tmp_path, "log.csv", CSV)
    items = write(tmp_path, "items.jsonl", f'{{"item_id": "007", "price": {"9" * 401}}}\n')
    run(tmp_path, log, items=(items,))
    assert pl.read_parquet(tmp_path / "data/shop/items.parquet").columns == ["item_id", "title"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{'user_id': 'u', 'item_id': 'i', 'timestamp': b'1538352000'}", "b'1538352000'"),
        ("{'user_id': 'u', 'item_id': 'i', 'timestamp': 1j}", "1j"),
    ],
)
def test_a_python_value_that_is_no_cell_is_told_by_line(tmp_path, line, found):
    log = write(tmp_path, "log.jsonl", line + "\n")
    with pytest.raises(UserError, match=f"line 1, timestamp: found {found}, expected text or a"):
        run(tmp_path, log)


def test_keys_that_are_no_text_make_no_object(tmp_path):
    log = write(tmp_path, "log.jsonl", "{1: 2}\n")
    with pytest.raises(UserError, match=r"line 1: found '\{1: 2\}', expected a JSON object"):
        run(tmp_path, log)


def test_what_is_an_id_in_json_stays_as_it_is_written(tmp_path):
    cells = [r'"a\u0000b"', '"true"', '"7.5"', "7.0", "12345678901234567890", r'"\ud83d\ude00"']
    log = write(
        tmp_path,
        "log.jsonl",
        "".join(
            f'{{"user_id": {cell}, "item_id": "i", "timestamp": 1538352000}}\n' for cell in cells
        ),
    )
    run(tmp_path, log)
    wanted = ["a\0b", "true", "7.5", "7", "12345678901234567890", "\U0001f600"]
    assert [row[0] for row in rows(tmp_path)] == wanted


HOURS = [dt.datetime(2018, 10, 1, hour, tzinfo=dt.UTC) for hour in range(2)]


def test_a_folder_as_spark_leaves_it(tmp_path):
    """Parts in subfolders are read, INT96 times too; checksums, marks and half parts aren't."""
    for day, hour in enumerate(HOURS):
        part = tmp_path / "orders" / f"day={day}" / f"part-0000{day}-c000.snappy.parquet"
        part.parent.mkdir(parents=True)
        table = pa.table({"user_id": [1], "item_id": ["007"], "timestamp": [hour]})
        pq.write_table(table, part, use_deprecated_int96_timestamps=True)
        part.with_name(f".{part.name}.crc").write_bytes(b"crc\0")
    for name in ("_SUCCESS", "._SUCCESS.crc", "_committed_12", "_temporary/0/part-1.parquet"):
        (tmp_path / "orders" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "orders" / name).write_bytes(b"half" if "/" in name else b"")
    run(tmp_path, str(tmp_path / "orders"))
    assert rows(tmp_path) == [("1", "007", 1538352000000), ("1", "007", 1538355600000)]


def test_files_as_bigquery_extracts_them(tmp_path):
    """Ids in NUMERIC, a decimal of 38 digits with 9 after the point, are read exactly."""
    numeric = pa.decimal128(38, 9)
    large = decimal.Decimal("12345678901234567890123456789")
    for number, hour in enumerate(HOURS):
        table = pa.table(
            {
                "user_id": pa.array([large], numeric),
                "item_id": pa.array([decimal.Decimal(number)], numeric),
                "timestamp": pa.array([hour], pa.timestamp("us", "UTC")),
                "rating": pa.array([decimal.Decimal("3.5")], numeric),
            }
        )
        pq.write_table(table, tmp_path / f"orders-{number:012d}.parquet")
    run(tmp_path, str(tmp_path / "orders-*.parquet"))
    assert rows(tmp_path) == [
        (str(large), "0", 1538352000000, 3.5),
        (str(large), "1", 1538355600000, 3.5),
    ]
