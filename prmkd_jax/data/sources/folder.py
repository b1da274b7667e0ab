"""The folder of a data set, replaced completely or not at all, whenever the process is killed."""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prmkd_jax.common.cache import held
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import process_runs, remove_leftovers, writing_folder
from prmkd_jax.data.canonical import INTERACTIONS

PICTURES = "images"
"""Folder of the pictures that were fetched."""


@contextmanager
def new_folder(target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write in, which becomes `target` at the end, and nothing on an error.

    Raises:
        UserError: the target is there, and is not to be replaced.
    """
    recover(target)
    refuse_existing(target, overwrite)
    # Pictures are named by their addresses, so those of the old data set are as good here.
    with writing_folder(target, kept=PICTURES) as folder:
        yield folder
        refuse_existing(target, overwrite)


@contextmanager
def writes(target: Path) -> Iterator[None]:
    """Holds a data set while it is written.

    Raises:
        UserError: another command writes it.
    """
    with held(target.parent, target.name, target, keep=False):
        yield


def recover(target: Path) -> None:
    """Tidies up after calls that were killed: half a data set goes, an old one comes back."""
    remove_leftovers(target.parent)
    for old in target.parent.glob(f".{glob.escape(target.name)}.old-*"):
        pid = old.name.rpartition("-")[2]
        if not pid.isdecimal() or process_runs(int(pid)):
            continue
        if not os.path.lexists(target):
            os.rename(old, target)
        elif (old / PICTURES).is_dir() and not (target / PICTURES).exists():
            os.rename(old / PICTURES, target / PICTURES)
        shutil.rmtree(old, ignore_errors=True)


def refuse_existing(target: Path, overwrite: bool) -> None:
    """Refuses to replace a data set unasked, or anything else at all.

    Raises:
        UserError: it is there.
    """
    if os.path.lexists(target) and not overwrite:
        raise UserError(
            f"--name={target.name}: found {target} already, expected a new name or --overwrite"
        )
    if os.path.lexists(target) and not is_data_set(target):
        raise UserError(
            f"--name={target.name}: found {target}, which is no data set, expected a new name"
        )


def is_data_set(target: Path) -> bool:
    """Whether it is a folder with interactions, and no link to one."""
    return (target / INTERACTIONS).is_file() and not target.is_symlink()
