"""Reads JSON lines; where polars loses what a cell was, Python's json reads them, slowly."""

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.clean import (
    Row,
    Value,
    fault,
    identifier,
    python_literal,
    require_characters,
)
from prmkd_jax.data.sources.files import Block, blocks
from prmkd_jax.data.sources.place import Place, short

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
    lines = block.text.split(b"\n") if count > rows else []
    blank = (number for number, line in enumerate(lines, block.first_line) if not line.strip())
    return Place(str(path), block.first_line, "line", blank=tuple(blank))


def _plain_json(block: Block, schema: pl.Schema, identifiers: Sequence[str]) -> pl.DataFrame | None:
    """What polars reads, or None where it may have lost what a cell was.

    It writes lists, yes and no as text, rounds long numbers, and makes half a character NUL.
    """
    try:
        frame = pl.read_ndjson(io.BytesIO(block.text), schema=schema)
    except pl.exceptions.PolarsError:
        return None
    odd = [pl.all().str.contains(r"^[\[{]"), pl.all().str.contains("\0", literal=True)]
    if identifiers:
        odd.append(pl.col(identifiers).str.contains(_NOT_TEXT))
    if _any(frame, odd):
        return None
    # The text is searched only where an id is that long, since the search takes seconds.
    long = [pl.col(identifiers).str.contains(_DIGITS)] if identifiers else []
    return None if _any(frame, long) and _LONG.search(block.text) else frame


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
    for number, row in json_rows(path, block):
        for name in columns:
            value = row.get(name)
            where = f"{path}, line {number}, {name}"
            if not isinstance(value, str | int | float | None):
                raise UserError(f"{where}: found {short(value)}, expected text or a number")
            if isinstance(value, str):
                require_characters(value, where)
            cells[name].append(identifier(value, where) if name in identifiers else _as_text(value))
    return cells


def json_rows(path: Path, block: Block) -> Iterator[tuple[int, Row]]:
    """Each line's number and mapping: JSON, or a Python literal as in Amazon's files of 2014.

    Raises:
        UserError: a line is neither, or has a `fault`.
    """
    for number, line in enumerate(block.text.split(b"\n"), start=block.first_line):
        if not line.strip():
            continue
        try:
            row = python_literal(line.decode("utf-8-sig"))
        except UnicodeDecodeError:
            row = None
        if not isinstance(row, dict) or not all(isinstance(key, str) for key in row):
            found = short(line[:60].decode("utf-8", "replace"))
            hint = " a line, not a list of them" if line.lstrip().startswith(b"[") else ""
            raise UserError(f"{path}, line {number}: found {found}, expected a JSON object{hint}")
        if found := fault(row):
            raise UserError(f"{path}, line {number}: found {found}, expected at most that")
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
