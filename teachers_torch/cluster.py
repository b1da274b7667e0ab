"""Parts of rows made on a Ray cluster, if `$PRMKD_RAY` names one, else here.

A part is the unit of work: who makes it batches it in the same way everywhere, and writes it into
the shared cache, complete or not at all. So it doesn't matter which node made which, and what is
there is never made again: not after a kill, and not where a part of a lost node is repeated.
"""

import functools
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import Make, PartFiles, make_in_parts, make_part, part_file, ranges
from prmkd_jax.common.sealed import is_sealed
from teachers_torch.ray_data import VARIABLE, asked_cluster, made, require_ray
from teachers_torch.teacher import ENCODER_VERSION

Recipe = Callable[[], Make]
"""Loads what makes rows, once a process; for a cluster it must be fit to be pickled."""


def require_cluster() -> None:
    """Finds what would stop the encoding on a cluster, if one is asked for.

    Raises:
        UserError: Ray isn't installed, or the cluster can't be reached or is too small.
    """
    address = asked_cluster()
    if address is not None:
        require_ray(address)


def make_parts(
    folder: Path,
    rows: int,
    size: int,
    recipe: Recipe,
    progress: Callable[[int, int], None],
    there: Recipe | None = None,
) -> PartFiles:
    """`make_in_parts`, on the cluster that is asked for or here.

    Args:
        folder: the folder of the parts, as in `make_in_parts`; on a cluster a place that all nodes
            share.
        rows: number of rows in all, as in `make_in_parts`.
        size: rows of a part, as in `make_in_parts`.
        recipe: loads what makes the rows; not called if all are there.
        progress: receives the rows done and their total, as in `make_in_parts`.
        there: does the same on another machine; by default `recipe` does.

    Raises:
        UserError: what `recipe` and its rows raise, or the cluster fails.
    """
    address = asked_cluster()
    if address is not None:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [part for part in ranges(rows, size) if not is_sealed(part_file(folder, *part))]
        if missing:
            done = rows - sum(stop - start for start, stop in missing)
            maker = PartMaker(folder, there or recipe)
            for start, stop in made(address, missing, maker, folder):
                done += stop - start
                progress(done, rows)
    make = functools.cache(recipe)
    return make_in_parts(folder, rows, size, lambda a, b: make()(a, b), progress)


class PartMaker:
    """Makes parts: what Ray Data's `map_batches` calls on every worker, and whoever else likes.

    It is given a batch of parts, `start` and `stop`, and returns it with `fault`, what a user
    has to be told, or "". The rows go into the files of `folder`.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        """Notes where and with what this process works, for those that it is sent to."""
        self.folder = folder.absolute()
        self._recipe = recipe
        self._here = Path.cwd()
        self._versions = _versions()
        self._make: Make | None = None

    def __getstate__(self) -> dict[str, object]:
        """Without what was loaded: that is loaded where it is used."""
        return {**self.__dict__, "_make": None}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Makes the parts that aren't there."""
        parts = zip(batch["start"].tolist(), batch["stop"].tolist(), strict=True)
        return {**batch, "fault": np.array([self._fault(*part) for part in parts])}

    def _fault(self, start: int, stop: int) -> str:
        try:
            make_part(self.folder, start, stop, lambda a, b: self._load()(a, b))
        except UserError as error:
            return str(error) or "found a mistake"
        return ""

    def _load(self) -> Make:
        if self._make is None:
            if _versions() != self._versions:
                raise UserError(
                    f"${VARIABLE}: found a node with {_versions()}, expected the versions of the "
                    f"machine that asks, {self._versions}"
                )
            if self._here != Path.cwd() and self._here.is_dir():
                os.chdir(self._here)  # flags may name files by relative paths
            self._make = self._recipe()
        return self._make


def _versions() -> dict[str, str]:
    """What must be equal on all machines, so that vectors are."""
    packages = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {**packages, "encoder": str(ENCODER_VERSION)}
