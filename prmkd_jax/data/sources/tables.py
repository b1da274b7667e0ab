"""csv, tsv, jsonl and parquet with named columns: what a warehouse exports."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.clean import Row, item_frame
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.files import find
from prmkd_jax.data.sources.log import canonical
from prmkd_jax.data.sources.place import shown
from prmkd_jax.data.sources.rows import Batch, columns_of, dicts, frames
from prmkd_jax.data.sources.source import Source
from prmkd_jax.data.sources.times import Clock

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
    paths = find("interactions", config.interactions)
    columns = interaction_columns(config, paths[0], columns_of(paths[0]), several=len(paths) > 1)
    items = find("items", config.items) if config.items else []
    return Source(
        interactions=canonical(_all_frames(paths, columns), columns, clock),
        items=_items(config, items) if items else None,
        timed="timestamp" in columns,
        ordered=len(paths) == 1,
        notes=clock_notes(columns, len(paths)),
    )


def interaction_columns(
    config: PrepareConfig, path: Path, found: Sequence[str], several: bool
) -> dict[str, str]:
    """Which column of a file of interactions is which.

    Args:
        config: whose flags name the columns.
        path: the file, for errors.
        found: its columns.
        several: whether there are part files, whose rows have no order.

    Raises:
        UserError: a column is missing, or nothing tells the order.
    """
    columns = named_columns(config, path, found, _INTERACTIONS)
    if "position" in columns:
        columns.pop("timestamp", None)
    elif "timestamp" not in columns and config.timestamp_column:
        raise UserError(
            f"{path}: found columns {shown(found)} and no {config.timestamp_column!r}, expected "
            "--timestamp_column or --position_column to name one of them; "
            "--timestamp_column= takes the order of the rows"
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
        if column in found:
            columns[name] = column
        elif column and not (may_lack and column == default):
            raise UserError(f"{path}: found columns {shown(found)}, expected {column!r} (--{flag})")
    return columns


def clock_notes(columns: Mapping[str, str], files: int) -> tuple[str, ...]:
    """How many files there are, and what their order is taken from when no time is there."""
    notes = [f"{files} file{'s' if files > 1 else ''} of interactions"]
    if "position" in columns:
        notes.append(f"order: column {columns['position']}")
    elif "timestamp" not in columns:
        notes.append("order: the rows of the file, oldest first")
    return tuple(notes)


def _all_frames(paths: Sequence[Path], columns: Mapping[str, str]) -> Iterator[Batch]:
    wanted = list(dict.fromkeys(columns.values()))
    for path in paths:
        found = columns_of(path)
        missing = [column for column in wanted if column not in found]
        if missing:
            raise UserError(
                f"{path}: found columns {shown(found)}, expected {missing[0]!r} as in {paths[0]}"
            )
        yield from frames(path, wanted)


def _items(config: PrepareConfig, paths: Sequence[Path]) -> Iterator[pl.DataFrame]:
    for path in paths:
        columns = named_columns(config, path, columns_of(path), ITEM_FLAGS)
        for rows, place in dicts(path, list(dict.fromkeys(columns.values()))):
            named = (renamed_row(row, columns, path.parent) for row in rows)
            yield item_frame(named, place.of("item_id"))


def renamed_row(row: Row, columns: Mapping[str, str], folder: Path) -> Row:
    """A row under the canonical names.

    An image's file is looked for beside the catalogue, and its path becomes absolute; an
    address becomes the item's `image_url`.
    """
    named = {name: row.get(column) for name, column in columns.items()}
    image = named.pop("image_path", None)
    if isinstance(image, str) and image.strip():
        if image.startswith(("https://", "http://")):
            named["image_url"] = image
        else:
            named["image_path"] = str((folder / image).resolve())
    return named
