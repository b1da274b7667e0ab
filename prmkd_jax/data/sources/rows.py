"""Reads csv, tsv, jsonl and parquet in batches of rows, in the order of the file.

polars reads fast; where it stumbles (a quote in the middle of a cell, a number where a text
stood before), Python's own csv and json read the rest, slowly, and say which row is at fault.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.sources.clean import Row, Value, python_literal
from prmkd_jax.data.sources.files import Block, blocks, format_of, open_text
from prmkd_jax.data.sources.place import Place

_ROWS = 200_000
_ITEM_ROWS = 20_000
_SEPARATORS = {"csv": ",", "tsv": "\t"}
# The keys of JSON lines are looked for in the first ones.
_SAMPLED_LINES = 100
csv.field_size_limit(16 << 20)


class Batch(NamedTuple):
    """Some rows of a file, and where they stand."""

    frame: pl.DataFrame
    place: Place


class Rows(NamedTuple):
    """The same as mappings, for a catalogue, whose cells may be nested."""

    rows: Sequence[Row]
    place: Place


def columns_of(path: Path, kind: str | None = None) -> list[str]:
    """The names of a file's columns.

    Raises:
        UserError: the file has none, has one twice, or cannot be read.
    """
    kind = kind or format_of(path)
    if kind == "parquet":
        try:
            return pl.scan_parquet(path).collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _unreadable(path, "parquet file", error) from None
    if kind == "jsonl":
        names: dict[str, None] = {}
        for block in blocks(path, size=1 << 20):
            lines = block.text.splitlines()[:_SAMPLED_LINES]
            for row in _json_rows(path, Block(b"\n".join(lines), block.first_line)):
                names.update(dict.fromkeys(row))
            break
        if not names:
            raise UserError(f"{path}: found no line, expected one JSON object a line")
        return list(names)
    header = next(_csv_rows(path, kind), (None, None))[1]
    if not header:
        raise UserError(f"{path}: found no header, expected the names of the columns")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{path}, header: found {twice[0]!r} twice, expected each name once")
    return header


def frames(
    path: Path, columns: Sequence[str], kind: str | None = None, header: bool = True
) -> Iterator[Batch]:
    """Reads some columns of a file in batches.

    Args:
        path: the file, also gzipped.
        columns: their names; without a header, the names of all columns.
        kind: csv, tsv, jsonl or parquet; by default what the file's name says.
        header: whether csv and tsv begin with the names.

    Returns:
        Frames with exactly these columns; of text files all are String.

    Raises:
        UserError: the file is damaged, or a row has too many or too few cells.
    """
    kind = kind or format_of(path)
    if kind == "jsonl":
        yield from _json_frames(path, columns)
        return
    if kind == "parquet":
        yield from _parquet_frames(path, columns)
        return
    done = 0
    schema = None if header else dict.fromkeys(columns, pl.String)
    lazy = pl.scan_csv(
        path,
        separator=_SEPARATORS[kind],
        has_header=header,
        schema=schema,
        infer_schema=False,
        glob=False,
    )
    try:
        for frame in lazy.select(columns).collect_batches(chunk_size=_ROWS, maintain_order=True):
            yield Batch(frame, Place(str(path), done))
            done += len(frame)
    except (pl.exceptions.PolarsError, OSError):
        yield from _careful_csv(path, columns, kind, header, done)


def dicts(path: Path, columns: Sequence[str], kind: str | None = None) -> Iterator[Rows]:
    """Reads some columns of a catalogue in batches of mappings.

    Args:
        path: the file, also gzipped.
        columns: their names; other columns are passed over.
        kind: csv, tsv, jsonl or parquet; by default what the file's name says.

    Raises:
        UserError: the file is damaged, or a row has too many or too few cells.
    """
    kind = kind or format_of(path)
    if kind == "parquet":
        for frame, place in _parquet_frames(path, columns, _ITEM_ROWS):
            yield Rows(frame.to_dicts(), place)
    elif kind == "jsonl":
        for block in blocks(path):
            rows = _json_rows(path, block)
            yield Rows(list(rows), Place(str(path), block.first_line, "line"))
    else:
        for frame, place in _careful_csv(path, columns, kind, True, 0, _ITEM_ROWS):
            yield Rows(frame.to_dicts(), place)


def _parquet_frames(path: Path, columns: Sequence[str], rows: int = _ROWS) -> Iterator[Batch]:
    done = 0
    try:
        lazy = pl.scan_parquet(path, glob=False).select(columns)
        for frame in lazy.collect_batches(chunk_size=rows, maintain_order=True):
            yield Batch(frame, Place(str(path), done))
            done += len(frame)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, "parquet file", error) from None


def _json_frames(path: Path, columns: Sequence[str]) -> Iterator[Batch]:
    schema = pl.Schema(dict.fromkeys(columns, pl.String))
    for block in blocks(path):
        place = Place(str(path), block.first_line, "line")
        try:
            frame = pl.read_ndjson(io.BytesIO(block.text), schema=schema)
        except pl.exceptions.PolarsError:
            rows = list(_json_rows(path, block))
            texts = {name: [_as_text(row.get(name)) for row in rows] for name in columns}
            frame = pl.DataFrame(texts, schema=schema)
        yield Batch(frame, place)


def _json_rows(path: Path, block: Block) -> Iterator[Row]:
    """One mapping a line: JSON, or a Python literal as in Amazon's files of 2014."""
    for number, line in enumerate(block.text.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        try:
            row = python_literal(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            row = None
        if not isinstance(row, dict):
            shown = line[:60].decode("utf-8", "replace")
            raise UserError(f"{path}, line {number}: found {shown!r}, expected a JSON object")
        yield row


def _as_text(value: Value) -> str | None:
    """As polars writes a JSON value where a text is wanted."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _careful_csv(
    path: Path,
    columns: Sequence[str],
    kind: str,
    header: bool,
    skip: int,
    size: int = _ROWS,
) -> Iterator[Batch]:
    """Reads a csv file row by row from row `skip` on."""
    rows = _csv_rows(path, kind)
    names = next(rows)[1] if header else list(columns)
    wanted = [names.index(name) for name in columns]
    kept: list[list[str | None]] = []
    first = skip
    schema = pl.Schema(dict.fromkeys(columns, pl.String))
    number = -1
    for number, (line, cells) in enumerate(rows):
        if number < skip:
            continue
        if len(cells) != len(names):
            raise UserError(
                f"{path}, line {line}: found {len(cells)} cells, expected {len(names)} as in "
                f"the {'header' if header else 'format'}"
            )
        kept.append([cells[index] or None for index in wanted])
        if len(kept) == size:
            yield Batch(pl.DataFrame(kept, schema=schema, orient="row"), Place(str(path), first))
            kept, first = [], number + 1
    if kept:
        yield Batch(pl.DataFrame(kept, schema=schema, orient="row"), Place(str(path), first))


def _csv_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of every row that is not blank, and the line on which it ends."""
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=_SEPARATORS[kind])
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
        except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            line = reader.line_num + 1
            raise UserError(
                f"{path}, line {line}: found no readable {kind} ({first_line(error)})"
            ) from None


def _unreadable(path: Path, what: str, error: Exception) -> UserError:
    return UserError(f"{path}: found no readable {what} ({first_line(error)})")
