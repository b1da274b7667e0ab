"""csv, tsv, jsonl and parquet with named columns: what a warehouse exports."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.clean import as_written, item_frame
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.files import find, format_of
from prmkd_jax.data.sources.log import canonical
from prmkd_jax.data.sources.place import shown
from prmkd_jax.data.sources.rows import FrameBatch, columns_of, dicts, frames, is_empty
from prmkd_jax.data.sources.source import Source
from prmkd_jax.data.sources.times import Clock
from prmkd_jax.data.sources.values import Row

# Canonical name → (flag, whether a file may do without it although the flag is at its default).
_INTERACTIONS = {
    "user_id": ("user_column", False),
    "item_id": ("item_column", False),
    "timestamp": ("timestamp_column", True),
    "position": ("position_column", True),
    "rating": ("rating_column", True),
    "event": ("event_column", True),
}
ITEM_FLAGS = {
    "item_id": ("item_column", False),
    "title": ("title_column", True),
    "brand": ("brand_column", True),
    "categories": ("categories_column", True),
    "description": ("description_column", True),
    "price": ("price_column", True),
    "image_path": ("image_column", True),
}


def open_tables(config: PrepareConfig, clock: Clock) -> Source:
    """Reads `--interactions` and `--items`.

    Raises:
        UserError: a file or a column that a flag names is not there.
    """
    paths = _with_rows(find("interactions", config.interactions))
    headers = {path: columns_of(path) for path in paths}
    columns = _common_columns(config, headers)
    items = _with_rows(find("items", config.items)) if config.items else []
    return Source(
        interactions=canonical(_all_frames(headers, columns), columns, clock),
        items=_items(config, items) if items else None,
        timed="timestamp" in columns,
        ordered=len(paths) == 1,
        files=(*paths, *items),
        notes=clock_notes(columns, len(paths)),
    )


def _with_rows(paths: Sequence[Path]) -> list[Path]:
    """The files without those that are empty, as part files may be; all, if all are."""
    filled = [path for path in paths if not is_empty(path)] if len(paths) > 1 else []
    return filled or list(paths)


def _common_columns(config: PrepareConfig, headers: Mapping[Path, Sequence[str]]) -> dict[str, str]:
    """Which column is which, in every file alike, whatever the order of the files.

    Raises:
        UserError: a column is missing, or only some of the files have it. In JSON lines a key
            may be missing anywhere.
    """
    first = next(iter(headers))
    together = list(dict.fromkeys(name for found in headers.values() for name in found))
    columns = interaction_columns(config, first, together, several=len(headers) > 1)
    for path, found in headers.items() if format_of(first) != "jsonl" else ():
        for column in columns.values():
            if column not in found:
                other = next(path for path in headers if column in headers[path])
                raise UserError(
                    f"{path}: found columns {shown(found)}, expected {column!r} as in {other}"
                )
    return columns


def interaction_columns(
    config: PrepareConfig, path: Path, found: Sequence[str], several: bool
) -> dict[str, str]:
    """Which column of a file of interactions is which.

    Args:
        config: the flags that name the columns.
        path: the file, for errors.
        found: the file's columns.
        several: whether there are part files, whose rows have no order.

    Raises:
        UserError: a column is missing, or nothing tells the order.
    """
    columns = named_columns(config, path, found, _INTERACTIONS)
    if "position" in columns:
        columns.pop("timestamp", None)
    elif "timestamp" not in columns and config.timestamp_column:
        order = "" if several else "; --timestamp_column= takes the order of the rows"
        raise UserError(
            f"{path}: found columns {shown(found)} and no {config.timestamp_column!r}, expected "
            f"--timestamp_column or --position_column to name one of them{order}"
        )
    elif "timestamp" not in columns and several:
        raise UserError(
            f"{path}: found several files and no time, expected --timestamp_column or "
            "--position_column: rows of part files have no order"
        )
    return columns


def named_columns(
    config: PrepareConfig,
    path: Path,
    found: Sequence[str],
    wanted: Mapping[str, tuple[str, bool]],
) -> dict[str, str]:
    """Canonical name → the file's, for the columns that are there.

    Raises:
        UserError: a column is missing that is needed, or that a flag names.
    """
    columns = {}
    for name, (flag, may_lack) in wanted.items():
        column = getattr(config, flag)
        default = type(config).__dataclass_fields__[flag].default
        if not column:
            continue  # a column without a name, as pandas writes its index, is nobody's
        if column in found:
            columns[name] = column
        elif not (may_lack and column == default):
            hint = _separator_hint(found)
            raise UserError(
                f"{path}: found columns {shown(found)}, expected {column!r} (--{flag}){hint}"
            )
    return columns


def _separator_hint(found: Sequence[str]) -> str:
    """What to say of a header that is one cell, yet looks like several."""
    sign = next((sign for sign in ";|\t," if len(found) == 1 and sign in found[0]), None)
    return f"; cells are parted by commas in .csv and by tabs in .tsv, not by {sign!r}" * bool(sign)


def clock_notes(columns: Mapping[str, str], files: int) -> tuple[str, ...]:
    """How many files there are, and what their order is taken from when no time is there."""
    notes = [f"{files} file{'s' if files > 1 else ''} of interactions"]
    if "position" in columns:
        notes.append(f"order: column {columns['position']}")
    elif "timestamp" not in columns:
        notes.append("order: the rows of the file, oldest first")
    return tuple(notes)


def _all_frames(paths: Iterable[Path], columns: Mapping[str, str]) -> Iterator[FrameBatch]:
    wanted = list(dict.fromkeys(columns.values()))
    identifiers = [columns["user_id"], columns["item_id"]]
    for path in paths:
        yield from frames(path, wanted, identifiers=identifiers)


def _items(config: PrepareConfig, paths: Sequence[Path]) -> Iterator[pl.DataFrame]:
    for path in paths:
        columns = named_columns(config, path, columns_of(path), ITEM_FLAGS)
        wanted = list(dict.fromkeys(columns.values()))
        for rows, place in dicts(path, wanted, identifier=columns["item_id"]):
            named = (renamed_row(row, columns, path.parent) for row in rows)
            yield item_frame(named, place.of("item_id"))


def renamed_row(row: Row, columns: Mapping[str, str], folder: Path) -> Row:
    """A row under the canonical names.

    An image's file is looked for next to the catalogue, and its path becomes absolute; an
    address becomes the item's `image_url`. Of a list the first one counts.
    """
    named = {name: row.get(column) for name, column in columns.items()}
    image = named.pop("image_path", None)
    if isinstance(image, list | tuple):
        image = next(iter(image), None)
    image = as_written(image) or ""
    if image.startswith("//"):
        image = f"https:{image}"
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", image):
        named["image_url"] = image
    elif image:
        named["image_path"] = os.path.realpath(folder / image)  # a link in a circle stays one
    return named
