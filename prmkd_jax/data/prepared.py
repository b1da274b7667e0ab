"""Digests of a prepared data set's files, in `prepared.json` beside them."""

from pathlib import Path

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import write_json
from prmkd_jax.common.reading import is_there, read_json

PREPARED = "prepared.json"
_FILES = "files"
# What is read of a data set; images are read one by one.
_SUFFIXES = (".parquet", ".npy")


def file_digests(folder: Path) -> dict[str, str]:
    """Name → SHA-256 of the files that are read of a data set."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES)
    return {path.name: file_digest(path) for path in files if path.is_file()}


def note_digests(folder: Path) -> None:
    """Brings the digests up to date after `prepare` has added to its data set."""
    content = _read(folder)
    if _FILES in content:
        write_json(folder / PREPARED, {**content, _FILES: file_digests(folder)})


def require_unchanged(folder: Path) -> None:
    """Compares a data set's files with their digests; one that nobody prepared has none.

    Raises:
        UserError: a file is another than the one that was written.
    """
    for name, digest in _read(folder).get(_FILES, {}).items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            raise UserError(
                f"{folder / name}: its SHA-256 is not the one in {PREPARED}, expected the file "
                f"that prepare has written (give that command again, with --overwrite; if you "
                f"have changed it yourself, delete {PREPARED})"
            )


def _read(folder: Path) -> dict:
    """The content of prepared.json; empty where there is none."""
    path = folder / PREPARED
    if not is_there(path):
        return {}
    try:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get(_FILES, {}), dict):
            raise ValueError("no object of names and digests")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({first_line(error)}), expected what prepare has written (prepare "
            "the data set again, or delete this file)"
        ) from error
    return content
