"""Reads JSON lines; where polars loses what a cell was, Python's json reads them, slowly."""

import io
import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import RepeatedField
from prmkd_jax.data.sources.clean import identifier, require_characters
from prmkd_jax.data.sources.files import Block, blocks
from prmkd_jax.data.sources.place import Place, short
from prmkd_jax.data.sources.values import Row, Value, fault, key_escape, python_literal

# What is no id unless it stands in quotes, and a number that floating point may have rounded.
_NOT_TEXT = r"^(true|false|-?\d+\.\d+)$"
_DIGITS = r"^-?\d{16,}$"
_LONG = re.compile(rb":\s*-?(\d{16,}[.eE]|\d+(\.\d+)?[eE])")


def json_frames(
    path: Path, columns: Sequence[str], identifiers: Sequence[str]
) -> Iterator[tuple[Place, pl.DataFrame]]:
    """Where a block's rows stand, and their cells as text.

    Args:
        path: the file, also gzipped.
        columns: keys that are read; null where a line has none.
        identifiers: those of ids, which must be texts or whole numbers.

    Raises:
        UserError: a line or a cell is no such thing.
    """
    schema = pl.Schema(dict.fromkeys(columns, pl.String))
    for block in blocks(path):
        frame = _plain_json(block, schema, identifiers)
        if frame is None:
            cells = _json_cells(path, block, columns, identifiers)
            frame = pl.DataFrame(cells, schema=schema)
        else:
            _refuse_repeated(path, block, frame)
        yield place_of(path, block, len(frame)), frame


def place_of(path: Path, block: Block, rows: int) -> Place:
    """Where a block's rows stand.

    Args:
        path: the file.
        block: some of its lines.
        rows: how many of them are rows; the others are blank.
    """
    # Looking for blank lines takes as long as reading: only where there are more lines than rows.
    count = block.text.count(b"\n") + (not block.text.endswith(b"\n"))
    numbers = None
    if count > rows:
        numbers = np.fromiter((number for number, _ in block.lines()), np.int64)
    return Place(str(path), block.first_line, "line", numbers=numbers)


def _plain_json(block: Block, schema: pl.Schema, identifiers: Sequence[str]) -> pl.DataFrame | None:
    """What polars reads, or None where it may have lost what a cell was.

    It writes lists, yes and no as text, rounds long numbers, and makes half a character NUL.
    """
    try:
        frame = pl.read_ndjson(io.BytesIO(block.text), schema=schema)
    except (pl.exceptions.PolarsError, OSError):
        return None
    odd = [pl.all().str.contains(r"^[\[{]"), pl.all().str.contains("\0", literal=True)]
    if identifiers:
        odd.append(pl.col(identifiers).str.contains(_NOT_TEXT))
    if _any(frame, odd):
        return None
    # The text is searched only where an id is that long, since the search takes seconds.
    long = [pl.col(identifiers).str.contains(_DIGITS)] if identifiers else []
    return None if _any(frame, long) and _LONG.search(block.text) else frame


def _refuse_repeated(path: Path, block: Block, frame: pl.DataFrame) -> None:
    """Refuses a line with one of the frame's keys twice: polars takes the first in silence.

    Raises:
        UserError: there is one.
    """
    keys = [f'"{name}"'.encode() for name in frame.columns]
    cells = [len(frame) - frame[name].null_count() for name in frame.columns]
    # Each cell has its key once: what is more is in texts, in objects, or twice.
    more = any(block.text.count(key) > known for key, known in zip(keys, cells, strict=True))
    escape = re.compile(key_escape(tuple(frame.columns)).encode())
    escaped = escape.search(block.text) is not None
    for number, line in block.lines() if more or escaped else ():
        if any(line.count(key) > 1 for key in keys) or (escaped and escape.search(line)):
            _json_row(path, number, line, frame.columns)


def _any(frame: pl.DataFrame, conditions: Sequence[pl.Expr]) -> bool:
    """Whether one of the conditions holds somewhere."""
    found = [each.any() for each in conditions]
    return bool(found) and frame.select(pl.any_horizontal(found)).item()


def _json_cells(
    path: Path, block: Block, columns: Sequence[str], identifiers: Sequence[str]
) -> dict[str, list[str | None]]:
    """The cells as text.

    Raises:
        UserError: one is a list or an object, has half a character, or is no id where one is
            wanted.
    """
    cells: dict[str, list[str | None]] = {name: [] for name in columns}
    for number, row in json_rows(path, block, columns):
        for name in columns:
            value = row.get(name)
            where = f"{path}, line {number}, {name}"
            if not isinstance(value, str | int | float | None):
                raise UserError(f"{where}: found {short(value)}, expected text or a number")
            if isinstance(value, str):
                require_characters(value, where)
            cells[name].append(identifier(value, where) if name in identifiers else _as_text(value))
    return cells


def json_rows(path: Path, block: Block, columns: Collection[str] = ()) -> Iterator[tuple[int, Row]]:
    """Each line's number and mapping: JSON, or a Python literal as in Amazon's files of 2014.

    Args:
        path: the file, for errors.
        block: some of its lines.
        columns: keys that are read, each of which a line may have once.

    Raises:
        UserError: a line is neither, has a key twice, or has a `fault`.
    """
    for number, line in block.lines():
        yield number, _json_row(path, number, line, columns)


def _json_row(path: Path, number: int, line: bytes, columns: Collection[str]) -> Row:
    try:
        row = python_literal(line.decode("utf-8-sig"), columns)
    except UnicodeDecodeError:
        row = None
    except RepeatedField as error:
        found = f"the key {short(error.name)} twice"
        raise UserError(f"{path}, line {number}: found {found}, expected each once") from None
    if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
        found = short(line[:60].decode("utf-8", "replace"))
        hint = " a line, not a list of them" if line.lstrip().startswith(b"[") else ""
        raise UserError(f"{path}, line {number}: found {found}, expected a JSON object{hint}")
    if found := fault(row):
        raise UserError(f"{path}, line {number}: found {found}")
    return row


def _as_text(value: Value) -> str | None:
    """As polars writes a JSON value where a text is wanted."""
    if value is None or isinstance(value, str):
        return value
    if value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value)
