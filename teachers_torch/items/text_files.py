"""Text vectors that were computed elsewhere, in the files of UniSRec's release."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.digests import files_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import open_regular
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import TextConfig

WIDTH = 768
_ITEMSIZE = 4  # bytes of a number
_LONGEST_NUMBERING = 2**28  # bytes: some ten million items
PLAIN, DROPPED, NUMBERING = ".feat1CLS", ".feat2CLS", ".item2index"


def read_text_features(
    config: TextConfig, dataset: Dataset, *, dropped: bool = False
) -> Float32[np.ndarray, "items 768"]:
    """Reads `<name>.feat1CLS` in the data set's own numbering.

    The file is headerless little-endian float32, one row of 768 numbers an item; the item's
    row is its number in `<name>.item2index` next to it (lines `item<TAB>number`).

    Args:
        config: the settings; in their `text_features` `{dataset}` stands for the data set's name.
        dataset: the data set, whose own ids find its items.
        dropped: read `<name>.feat2CLS`, the texts with words dropped.

    Raises:
        UserError: a file is missing or damaged, or lacks an item.
    """
    path = features_path(config, dataset.name)
    if dropped:
        path = path.with_suffix(DROPPED)
    rows = _read_numbering(path.with_suffix(NUMBERING))
    flat = _read_numbers(path, len(rows))
    missing = [item for item in dataset.item_ids if item not in rows]
    if missing:
        raise UserError(
            f"{path.with_suffix(NUMBERING)}: found no item {missing[0]!r} ({len(missing)} missing "
            f"in all), expected every item of data set {dataset.name}"
        )
    features = flat.reshape(-1, WIDTH)[[rows[item] for item in dataset.item_ids]]
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        item = dataset.item_ids[bad[0]]
        raise UserError(f"{path}, item {item!r}: found nan or inf, expected finite numbers")
    return features.astype(np.float32)


def features_path(config: TextConfig, name: str) -> Path:
    """The file that `--text_features` names for a data set.

    Raises:
        UserError: it does not end in `.feat1CLS`.
    """
    path = Path(config.text_features.replace("{dataset}", name))
    if path.suffix != PLAIN:
        raise UserError(f"--text_features: found {str(path)!r}, expected a {PLAIN} file")
    return path


def features_digest(config: TextConfig, name: str, *, dropped: bool = False) -> str:
    """SHA-256 over the file's and its numbering's content; arguments as `read_text_features`'s.

    Raises:
        UserError: one of them is missing.
    """
    path = features_path(config, name)
    if dropped:
        path = path.with_suffix(DROPPED)
    try:
        return files_digest((path, path.with_suffix(NUMBERING)))
    except OSError as error:
        raise UserError(
            f"--text_features: {error.filename}: found no such file, expected it"
        ) from error


def _read_numbers(path: Path, rows: int) -> Float32[np.ndarray, " numbers"]:
    """The file's numbers, whose count is known before they are read."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            wanted = rows * WIDTH * _ITEMSIZE
            if size == wanted:
                return np.fromfile(stream, dtype="<f4", count=rows * WIDTH)
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else first_line(error)
        raise UserError(f"--text_features: {path}: found {what}, expected it") from error
    found = f"{size // _ITEMSIZE} numbers" if size % _ITEMSIZE == 0 else f"{size} bytes"
    raise UserError(
        f"{path}: found {found}, expected {rows} × {WIDTH}, one row for each item of "
        f"{path.with_suffix(NUMBERING).name}"
    )


def _read_numbering(path: Path) -> dict[str, int]:
    """Item → row; the rows are 0, 1, … without a gap."""
    try:
        with open_regular(path) as stream:
            content = stream.read(_LONGEST_NUMBERING + 1)
        if len(content) > _LONGEST_NUMBERING:
            raise OSError(f"it has more than {_LONGEST_NUMBERING >> 20} MB")
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: found no readable file, expected the items' rows") from error
    rows: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        item, tab, row = line.rpartition("\t")
        if not tab or not row.isdecimal() or item in rows:
            raise UserError(f"{path}, line {number}: found {line!r}, expected item<TAB>row")
        rows[item] = int(row)
    if sorted(rows.values()) != list(range(len(rows))):
        raise UserError(f"{path}: found rows with a gap or twice, expected 0 to {len(rows) - 1}")
    return rows
