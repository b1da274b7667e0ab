"""Rows of vectors made in parts on disk, so that whoever is killed meanwhile goes on from there."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from prmkd_jax.common.files import remove_leftovers
from prmkd_jax.common.sealed import is_sealed, writing_sealed

_LOG = logging.getLogger(__name__)

Make = Callable[[int, int], np.ndarray]
"""Makes the rows from one to before another."""


@dataclasses.dataclass(frozen=True)
class PartFiles:
    """Finished rows in files; no more than one part of them is in memory.

    Attributes:
        files: the parts in their order.
        rows: rows of all parts together.
    """

    files: tuple[Path, ...]
    rows: int

    def __iter__(self) -> Iterator[np.ndarray]:
        """The parts' rows, one file after the other."""
        return (np.load(file) for file in self.files)

    def array(self) -> np.ndarray:
        """All rows, in memory."""
        return np.concatenate(list(self))


def make_in_parts(
    folder: Path,
    rows: int,
    size: int,
    make: Make,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PartFiles:
    """All rows, of which the parts that are in `folder` already aren't made again.

    Args:
        folder: made if missing; the caller removes it once the rows are stored elsewhere. The
            parts there must be those of the same content and size.
        rows: how many, at least one.
        size: rows of a part.
        make: the rows from `start` to before `stop`.
        progress: receives the rows done and to do, after each part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    files = []
    for start, stop in ranges(rows, size):
        files.append(make_part(folder, start, stop, make))
        progress(stop, rows)
    return PartFiles(tuple(files), rows)


def ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """Where each part starts, and before which row it stops.

    >>> ranges(25, 10)
    [(0, 10), (10, 20), (20, 25)]
    """
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def part_file(folder: Path, start: int, stop: int) -> Path:
    """Where a part's rows lie; it is there only if `sealed.is_sealed` says so."""
    return folder / f"{start}-{stop}.npy"


def make_part(folder: Path, start: int, stop: int, make: Make) -> Path:
    """The file of one part, made unless it is there as it was written.

    Several processes may make the same one: each writes under a name of its own, and the last
    takes its place.
    """
    path = part_file(folder, start, stop)
    if not is_sealed(path):
        if path.exists():
            _LOG.warning("%s: found it damaged; it is made again", path)
        made = make(start, stop)
        with writing_sealed(path) as partial, partial.open("wb") as file:
            np.save(file, made)
    return path
