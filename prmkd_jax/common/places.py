"""Whether files may be put where somebody wants them, asked before the hours are spent."""

import os
from collections.abc import Iterable
from pathlib import Path

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import may_write


def require_place(folder: Path, flag: str) -> None:
    """Checks, before the hours are spent, that files can be put into a folder; changes nothing.

    Args:
        folder: there already, or to be made.
        flag: the option that an error names.

    Raises:
        UserError: it is in a file's place or below one, or may not be written.
    """
    try:
        nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
        is_folder = nearest.is_dir()
    except OSError as error:
        raise UserError(f"{flag}: found {str(folder)[:200]!r} ({error.strerror})") from None
    if not is_folder:
        raise UserError(f"{flag}: found {nearest}, which is no folder, expected one or nothing")
    if not may_write(nearest):
        raise UserError(f"{flag}: found {nearest} without permission to write, expected it")


def require_apart(sources: Iterable[Path], folder: Path, flag: str) -> None:
    """Refuses to replace a folder that holds what is read.

    Args:
        sources: files and folders that are read.
        folder: the folder to be replaced.
        flag: the option that an error names.

    Raises:
        UserError: naming the first that is the folder or lies in it.
    """
    place = Path(os.path.realpath(folder))
    for source in sources:
        if Path(os.path.realpath(source)).is_relative_to(place):
            raise UserError(
                f"{flag}: found {source}, which is read, in {folder}, which --overwrite would "
                "replace, expected it elsewhere"
            )
