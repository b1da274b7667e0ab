"""JSON lines: keys that are there twice, packed data, blank lines."""

import bz2
import functools
import gzip
import json
import lzma
import tracemalloc
import zlib

import pyarrow as pa
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources import json_rows, rows
from prmkd_jax.data.sources.files import Block, blocks
from prmkd_jax.data.sources.json_rows import place_of

LINE = '{"user_id": "u", "item_id": "i", "timestamp": 1538352000}\n'


def read(folder, text: str | bytes, name: str = "log.jsonl") -> list[tuple]:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    columns = ["user_id", "item_id"]
    return [
        row for batch in rows.frames(path, columns, None, True, columns) for row in batch[0].rows()
    ]


TWICE = [
    '{"user_id": "a", "user_id": "b", "item_id": "i"}',
    '{"user_id": null, "item_id": "i", "user_id": "b"}',
    '{"user_id": "a", "us\\u0065r_id": "b", "item_id": "i"}',
    '{"\\u0075ser_id": "a", "us\\u0065r_id": "b", "item_id": "i"}',
    '{"user_id": "a", "user_id": "b", "item_id": "i", "other": [{"user_id": 1}]}',
    "{'user_id': 'a', 'item_id': 'i', 'user_id': 'b'}",
    "{'user_id': 'a', 'item_id': 'i', 'us' 'er_id': 'b'}",
]


@pytest.mark.parametrize("line", TWICE)
@pytest.mark.parametrize("other", ["", '{"item_id": "k"}\n', '{"user_id": [], "item_id": "k"}\n'])
def test_a_key_that_a_line_has_twice_is_refused_by_either_reader(tmp_path, line, other):
    """Another line may lack the key, or have what only the careful reader refuses, later."""
    with pytest.raises(UserError, match=r"line 2: found the key 'user_id' twice, expected each on"):
        read(tmp_path, f"{LINE}{line}\n{other}")
    with pytest.raises(UserError, match=r"line 2: found the key 'user_id' twice, expected each on"):
        list(rows.dicts(tmp_path / "log.jsonl", ["user_id", "item_id"]))


@pytest.mark.parametrize(
    "rest",
    [
        '"other": {"user_id": "b"}',
        '"other": [{"user_id": "b", "user_id": "c"}]',
        '"other": "user_id"',
        '"other": "say \\"user_id\\": b"',
        '"other": "a\\nb", "user": "user_id"',
        '"other": 1, "other": 2',
    ],
)
def test_a_name_that_is_also_in_texts_and_objects_is_no_key_twice(tmp_path, rest):
    line = '{"user_id": "a", "item_id": "i", ' + rest + "}\n"
    assert read(tmp_path, line * 3) == [("a", "i")] * 3
    rows_read = [
        row for batch in rows.dicts(tmp_path / "log.jsonl", ["user_id"]) for row in batch[0]
    ]
    assert [row["user_id"] for row in rows_read] == ["a"] * 3


def test_a_set_of_python_is_no_text(tmp_path):
    """Its texts would be in another order in every run."""
    path = tmp_path / "items.jsonl"
    path.write_text("{'item_id': 'i', 'title': [{'a', 'b'}]}\n")
    with pytest.raises(UserError, match=r"line 1: found a set of Python, which has no order, exp"):
        list(rows.dicts(path, ["item_id", "title"]))


@pytest.mark.parametrize("packed", ["zstd", "zlib", "gzip", "bzip2", "xz"])
@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_packed_data_are_unpacked_by_nobody_else(tmp_path, packed, name):
    """polars would, past every bound on what is held at once."""
    text = LINE.encode() * 5
    data = {
        "zstd": lambda: pa.compress(text, codec="zstd", asbytes=True),
        "zlib": lambda: zlib.compress(text),
        "gzip": lambda: gzip.compress(gzip.compress(text)),
        "bzip2": lambda: bz2.compress(text),
        "xz": lambda: lzma.compress(text),
    }[packed]()
    if name.endswith(".gz") and packed != "gzip":
        data = gzip.compress(data)
    for reads in (lambda: read(tmp_path, data, name), lambda: rows.columns_of(tmp_path / name)):
        with pytest.raises(UserError, match=rf"{name}, line 1: found data packed by {packed}, exp"):
            reads()


def test_a_later_block_that_looks_packed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "blocks", functools.partial(blocks, size=len(LINE)))
    packed = pa.compress(LINE.encode() * 5, codec="zstd", asbytes=True)
    with pytest.raises(UserError, match=r"line 2: found data packed by zstd, expected text"):
        read(tmp_path, LINE.encode() + packed)


@pytest.mark.parametrize("begin", [b"x\x01", b"x^"])
def test_a_csv_that_polars_would_unpack_is_text(tmp_path, begin):
    """These first bytes of zlib are text, too."""
    path = tmp_path / "log.csv"
    path.write_bytes(begin + b",b\n1,2\n")
    [batch] = rows.frames(path, ["b"])
    assert batch.frame.rows() == [("2",)]


def test_blank_lines_take_no_memory_and_are_counted(tmp_path):
    """A gzipped file of 65 KB may hold 64 million of them."""
    text = LINE.encode() + b"\n" * (1 << 20) + b" \t\r\n" + LINE.encode() * 2
    tracemalloc.start()
    lines = [number for number, _ in Block(text, 1).lines()]
    place = place_of(tmp_path, Block(text, 1), 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lines == [1, 2**20 + 3, 2**20 + 4]
    assert [place.number(row) for row in range(3)] == lines
    assert peak < 1 << 19


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl"])
def test_a_byte_order_mark_at_the_beginning_of_any_row_belongs_to_no_cell(tmp_path, name):
    """Files that were put together have one each; inside a cell it stays."""
    sep = "," if name == "log.csv" else "\t"
    users = ["a", "\ufeffb", "c\ufeffd", "e"]
    lines = [
        "user_id" + sep + "item_id",
        *(f"{user}{sep}i" for user in users),
        '\ufeff"f"' + sep + "i",
    ]
    if name == "log.jsonl":
        lines = [
            json.dumps({"user_id": user, "item_id": "i"}, ensure_ascii=False) for user in users
        ]
        lines[1] = "\ufeff" + lines[1].replace("\ufeff", "")
        lines += ['\ufeff{"user_id": "f", "item_id": "i"}']
    found = [user for user, _ in read(tmp_path, "\ufeff" + "\n".join(lines) + "\n", name)]
    assert found == ["a", "b", "c\ufeffd", "e", "f"]


@pytest.mark.parametrize("name", ["käufer", 'a"b', "a/b", "a\nb"])
def test_a_key_that_has_to_be_escaped_is_told_twice(tmp_path, name):
    """Or may be, as all letters but ASCII's are by default."""
    told = json.dumps(name)
    path = tmp_path / "log.jsonl"
    slashed = told.replace("/", r"\/")
    for twice in (f"{told}: 1, {told}: 2", f"{told}: 1, {slashed}: 2"):
        path.write_text(f"{{{told}: 0}}\n{{{twice}}}\n")
        with pytest.raises(UserError, match=r"line 2: found the key .* twice, expected each once"):
            list(rows.frames(path, [name]))
        with pytest.raises(UserError, match=r"line 2: found the key .* twice, expected each once"):
            list(rows.dicts(path, [name]))
