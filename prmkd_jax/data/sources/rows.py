"""Reads csv, tsv, jsonl and parquet in batches of rows, in the order of the file.

polars reads fast; where it stumbles (a quote in the middle of a cell, a number where a text
stood before), Python's own csv and json read the rest, slowly, and say which row is at fault.
"""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.sources.cells import ids
from prmkd_jax.data.sources.clean import Row, Value, python_literal
from prmkd_jax.data.sources.csv_rows import SEPARATORS, careful_csv, csv_rows
from prmkd_jax.data.sources.files import Block, blocks, format_of
from prmkd_jax.data.sources.place import Place

_ROWS = 200_000
_ITEM_ROWS = 20_000
# The keys of JSON lines are looked for in so many bytes at the beginning.
_SAMPLED = 1 << 20


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
        for block in blocks(path, size=_SAMPLED):
            for _, row in _json_rows(path, block):
                names.update(dict.fromkeys(row))
            break
        if not names:
            raise UserError(f"{path}: found no line, expected one JSON object a line")
        return list(names)
    header = next((cells for _, cells in csv_rows(path, kind) if cells), None)
    if not header:
        raise UserError(f"{path}: found no header, expected the names of the columns")
    # Columns without a name, as of a comma at the end of the lines, are nobody's.
    twice = sorted({name for name in header if name and header.count(name) > 1})
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
        UserError: the file is damaged, or a row has too many cells.
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
        separator=SEPARATORS[kind],
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
        for first, frame in careful_csv(path, columns, kind, header, done, _ROWS):
            yield Batch(frame, Place(str(path), first))


def is_empty(path: Path) -> bool:
    """Whether a text file has no line, or blank ones alone, as part files sometimes have."""
    if format_of(path) == "parquet":
        return False
    try:
        return not any(block.text.strip() for block in blocks(path, size=_SAMPLED))
    except UserError:
        return False  # what is wrong with it is said where it is read


def dicts(
    path: Path, columns: Sequence[str], kind: str | None = None, identifier: str = ""
) -> Iterator[Rows]:
    """Reads some columns of a catalogue in batches of mappings.

    Args:
        path: the file, also gzipped.
        columns: their names; other columns are passed over.
        kind: csv, tsv, jsonl or parquet; by default what the file's name says.
        identifier: a column whose cells of parquet's types become text as ids do.

    Raises:
        UserError: the file is damaged, or a row has too many cells.
    """
    kind = kind or format_of(path)
    if kind == "parquet":
        for frame, place in _parquet_frames(path, columns, _ITEM_ROWS):
            if identifier:
                frame = frame.with_columns(ids(frame[identifier], place.of(identifier)))
            yield Rows(frame.to_dicts(), place)
    elif kind == "jsonl":
        for block in blocks(path):
            rows = [row for _, row in _json_rows(path, block)]
            yield Rows(rows, Place(str(path), block.first_line, "line"))
    else:
        for first, frame in careful_csv(path, columns, kind, True, 0, _ITEM_ROWS):
            yield Rows(frame.to_dicts(), Place(str(path), first))


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
            nested = frame.select(pl.any_horizontal(pl.all().str.contains(r"^[\[{]").any())).item()
        except pl.exceptions.PolarsError:
            nested = True
        if nested:
            frame = pl.DataFrame(_json_cells(path, block, columns), schema=schema)
        yield Batch(frame, place)


def _json_cells(path: Path, block: Block, columns: Sequence[str]) -> dict[str, list[str | None]]:
    """The cells as polars would have read them; refuses lists and objects."""
    cells: dict[str, list[str | None]] = {name: [] for name in columns}
    for number, row in _json_rows(path, block):
        for name in columns:
            value = row.get(name)
            if isinstance(value, list | tuple | dict):
                shown = repr(value)[:60]
                raise UserError(
                    f"{path}, line {number}, {name}: found {shown}, expected text or a number"
                )
            cells[name].append(_as_text(value))
    return cells


def _json_rows(path: Path, block: Block) -> Iterator[tuple[int, Row]]:
    """Each line's number and mapping: JSON, or a Python literal as in Amazon's files of 2014."""
    for number, line in enumerate(block.text.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        try:
            row = python_literal(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            row = None
        if not isinstance(row, dict):
            shown = line[:60].decode("utf-8", "replace")
            hint = " a line, not a list of them" if line.lstrip().startswith(b"[") else ""
            raise UserError(f"{path}, line {number}: found {shown!r}, expected a JSON object{hint}")
        yield number, row


def _as_text(value: Value) -> str | None:
    """As polars writes a JSON value where a text is wanted."""
    if value is None or isinstance(value, str):
        return value
    if value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)


def _unreadable(path: Path, what: str, error: Exception) -> UserError:
    return UserError(f"{path}: found no readable {what} ({first_line(error)})")
