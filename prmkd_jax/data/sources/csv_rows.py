"""Reads csv and tsv row by row with Python's own reader, which says what is wrong with a row."""

import contextlib
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.sources.files import DAMAGED, LINE_BYTES, open_binary, open_text

SEPARATORS = {"csv": ",", "tsv": "\t"}
csv.field_size_limit(16 << 20)


def careful_csv(
    path: Path,
    columns: Sequence[str],
    kind: str,
    header: bool,
    skip: int,
    size: int,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Reads a csv file row by row from row `skip` on; blank lines are rows, as for polars.

    Cells that a row lacks at its end are empty.

    Args:
        path: the file, also gzipped.
        columns: those wanted; without a header, the names of all.
        kind: csv or tsv.
        header: whether the file begins with the names.
        skip: rows that were read before.
        size: rows of a frame.

    Returns:
        The number of a frame's first row, and the frame.

    Raises:
        UserError: the file is damaged, or a row has too many cells.
    """
    rows = csv_rows(path, kind)
    names = next(cells for _, cells in rows if cells) if header else list(columns)
    wanted = [names.index(name) for name in columns]
    kept: list[list[str | None]] = []
    first = skip
    schema = pl.Schema(dict.fromkeys(columns, pl.String))
    number = -1
    for number, (line, cells) in enumerate(rows):
        if number < skip:
            continue
        if len(cells) > len(names):
            raise UserError(
                f"{path}, line {line}: found {len(cells)} cells, expected {len(names)} as in "
                f"the {'header' if header else 'format'}"
            )
        kept.append([cells[index] or None if index < len(cells) else None for index in wanted])
        if len(kept) == size:
            yield first, pl.DataFrame(kept, schema=schema, orient="row")
            kept, first = [], number + 1
    if kept:
        yield first, pl.DataFrame(kept, schema=schema, orient="row")


def csv_header(path: Path, kind: str) -> list[str]:
    """The names in the first line that isn't blank; none where there is no such line.

    Raises:
        UserError: as `csv_rows`.
    """
    return next((cells for _, cells in csv_rows(path, kind) if cells), [])


def csv_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of every row, none of a blank one, and the line on which it ends.

    Raises:
        UserError: the file is damaged, no UTF-8, or a quote that opens a cell is not closed.
    """
    lines = 0
    taken: list[str] = []

    def fed(stream: io.TextIOWrapper) -> Iterator[str]:
        while line := stream.readline(LINE_BYTES):
            if len(line) == LINE_BYTES:
                raise UserError(
                    f"{path}, after line {lines + len(taken)}: found a line of more than "
                    f"{LINE_BYTES >> 20} million characters, expected its end"
                )
            if not taken:
                # Files that were put together may have a byte-order mark each.
                line = line.removeprefix("\ufeff")
            taken.append(line)
            yield line

    with open_text(path) as stream:
        reader = csv.reader(fed(stream), delimiter=SEPARATORS[kind], strict=True)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                cells = _lenient(taken, kind)
                if cells is None:
                    raise UserError(_unclosed(path, kind, lines, len(taken), error)) from None
            except UnicodeDecodeError:
                raise UserError(_no_text(path)) from None
            except DAMAGED as error:
                raise UserError(
                    f"{path}, after line {lines}: found no readable {kind} ({first_line(error)})"
                ) from None
            if cells is None:
                return
            lines += len(taken)
            taken.clear()
            yield lines, cells


def _lenient(taken: Sequence[str], kind: str) -> list[str] | None:
    """The cells of a line with text behind a closing quote, which belongs to the cell.

    Returns:
        None where a quote has swallowed lines, or would swallow the next one.
    """
    if len(taken) != 1 or not taken[0].strip():
        return None
    # A cell that is still open at the end of the line takes the next one too.
    reader = csv.reader([*taken, ""], delimiter=SEPARATORS[kind])
    try:
        cells = next(reader)
    except csv.Error:
        return None
    return cells if reader.line_num == 1 else None


def _no_text(path: Path) -> str:
    """Which line is no UTF-8; the reader decodes many at once and doesn't know."""
    # Damaged gzip data may end before that line does.
    with contextlib.suppress(*DAMAGED), open_binary(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LINE_BYTES), b""), start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                found = f"{error.reason} (0x{line[error.start]:02x})"
                return f"{path}, line {number}: found {found}, expected UTF-8"
    return f"{path}: found bytes that are no text, expected UTF-8"


def _unclosed(path: Path, kind: str, lines: int, taken: int, error: csv.Error) -> str:
    where = f"{path}, line {lines + 1}"
    if taken > 1:
        where = f"{path}, lines {lines + 1} to {lines + taken}"
    return (
        f"{where}: found no readable {kind} ({first_line(error)}), expected a quote that opens a "
        "cell to be closed at its end"
    )
