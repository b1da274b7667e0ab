"""Reads csv, tsv, jsonl and parquet in batches of rows, in the order of the file.

polars reads fast; where it would err in silence (a quote in the middle of a cell) or stumbles (a
number where a text stood before), Python's own csv and json read, slowly, and say which row is at
fault.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.cells import ids
from prmkd_jax.data.sources.csv_check import is_regular
from prmkd_jax.data.sources.csv_rows import SEPARATORS, careful_csv, csv_header
from prmkd_jax.data.sources.files import Block, blocks, format_of
from prmkd_jax.data.sources.json_rows import json_frames, json_rows, place_of
from prmkd_jax.data.sources.parquet_rows import parquet_frames, parquet_names
from prmkd_jax.data.sources.place import Place, short
from prmkd_jax.data.sources.values import Row

_ROWS = 200_000
_ITEM_ROWS = 20_000
# Bytes from a file's beginning: most say there what they have.
_BEGINNING = 1 << 20


class FrameBatch(NamedTuple):
    """Some rows of a file, and where they stand."""

    frame: pl.DataFrame
    place: Place


class Rows(NamedTuple):
    """The same as mappings, for a catalogue, whose cells may be nested."""

    rows: Sequence[Row]
    place: Place


def columns_of(path: Path, kind: str | None = None, *, first: bool = False) -> list[str]:
    """The names of a file's columns; in JSON lines every key that any line has.

    Args:
        path: the file, also gzipped.
        kind: csv, tsv, jsonl or parquet; by default what the file's name says.
        first: whether the keys of the first megabyte of JSON lines will do, where a key that is
            missing there is an error anyway.

    Raises:
        UserError: the file has none, has one twice, or cannot be read.
    """
    kind = kind or format_of(path)
    if kind == "parquet":
        return parquet_names(path)
    if kind == "jsonl":
        names: dict[str, None] = {}
        for block in blocks(path, size=_BEGINNING) if first else blocks(path):
            names.update(dict.fromkeys(_keys(path, block)))
            if first:
                break
        if not names:
            raise UserError(f"{path}: found no line, expected one JSON object a line")
        return list(names)
    header = csv_header(path, kind)
    if not header:
        raise UserError(f"{path}: found no header, expected the names of the columns")
    # Columns without a name, as of a comma at the end of the lines, are nobody's.
    twice = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if twice:
        raise UserError(f"{path}, header: found {short(twice[0])} twice, expected each name once")
    return header


def _keys(path: Path, block: Block) -> list[str]:
    """The keys of a block's lines."""
    try:
        lazy = pl.scan_ndjson(io.BytesIO(block.text), infer_schema_length=None)
        return lazy.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        rows = (row for _, row in json_rows(path, block))
        return list(dict.fromkeys(name for row in rows for name in row))


def frames(
    path: Path,
    columns: Sequence[str],
    kind: str | None = None,
    header: bool = True,
    identifiers: Sequence[str] = (),
) -> Iterator[FrameBatch]:
    """Reads some columns of a file in batches.

    Args:
        path: the file, also gzipped.
        columns: their names; without a header, the names of all columns.
        kind: csv, tsv, jsonl or parquet; by default what the file's name says.
        header: whether csv and tsv begin with the names.
        identifiers: columns of ids, which in JSON must be texts or whole numbers.

    Returns:
        Frames with exactly these columns; of text files all are String.

    Raises:
        UserError: the file is damaged, a row has too many cells, or JSON has something else in
            place of an id.
    """
    kind = kind or format_of(path)
    if kind == "jsonl":
        for place, frame in json_frames(path, columns, identifiers):
            yield FrameBatch(frame, place)
        return
    if kind == "parquet":
        for first, frame in parquet_frames(path, columns, _ROWS):
            yield FrameBatch(frame, Place(str(path), first))
        return
    done = 0
    width = len(csv_header(path, kind) if header else columns)
    if is_regular(path, SEPARATORS[kind], width):
        try:
            for frame in _regular_frames(path, columns, kind, header):
                yield FrameBatch(frame, Place(str(path), done))
                done += len(frame)
            return
        except (pl.exceptions.PolarsError, OSError):
            pass  # the careful reader goes on from there, and says what is wrong
    for first, frame in careful_csv(path, columns, kind, header, done, _ROWS):
        yield FrameBatch(frame, Place(str(path), first))


def _regular_frames(
    path: Path, columns: Sequence[str], kind: str, header: bool
) -> Iterator[pl.DataFrame]:
    lazy = pl.scan_csv(
        path,
        separator=SEPARATORS[kind],
        has_header=header,
        schema=None if header else dict.fromkeys(columns, pl.String),
        infer_schema=False,
        glob=False,
    )
    return lazy.select(columns).collect_batches(chunk_size=_ROWS, maintain_order=True)


def is_empty(path: Path) -> bool:
    """Whether a text file has no line, or blank ones alone, as part files sometimes have."""
    if format_of(path) == "parquet":
        return False
    try:
        return not any(block.text.strip() for block in blocks(path, size=_BEGINNING))
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
        for first, frame in parquet_frames(path, columns, _ITEM_ROWS, as_python=True):
            place = Place(str(path), first)
            if identifier:
                frame = frame.with_columns(ids(frame[identifier], place.of(identifier)))
            yield Rows(frame.to_dicts(), place)
    elif kind == "jsonl":
        for block in blocks(path):
            rows = [row for _, row in json_rows(path, block, columns)]
            yield Rows(rows, place_of(path, block, len(rows)))
    else:
        for first, frame in careful_csv(path, columns, kind, True, 0, _ITEM_ROWS):
            yield Rows(frame.to_dicts(), Place(str(path), first))
