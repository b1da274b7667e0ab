"""Whether a data set is there already, made of the same files with the same flags.

`prepared.json` keeps the flags that decide which rows there are, the files that were read and
the hash of the interactions. The same command finds its own work and leaves it; another one is
told what differs.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import read_json
from prmkd_jax.data.canonical import INTERACTIONS, ITEMS
from prmkd_jax.data.prepared import PREPARED
from prmkd_jax.data.sources.config import PrepareConfig


class Read(TypedDict):
    """A file that was read: where it is, and what stands for its content."""

    file: str
    bytes: int
    mtime_ns: int
    sha256: str


class Origin(NamedTuple):
    """What a data set was made of.

    Attributes:
        flags: those that decide which rows there are, as JSON has them.
        sources: the files that were read.
        interactions: SHA-256 of interactions.parquet.
    """

    flags: Mapping[str, object]
    sources: Sequence[Read]
    interactions: str


def describe_files(paths: Sequence[Path]) -> list[Read]:
    """What stands for the files' contents; all of them are read once."""
    described = []
    for path in sorted({Path(os.path.abspath(path)) for path in paths}):
        status = path.stat()
        described.append(
            Read(
                file=str(path),
                bytes=status.st_size,
                mtime_ns=status.st_mtime_ns,
                sha256=file_digest(path),
            )
        )
    return described


def read_origin(folder: Path) -> Origin | None:
    """What `prepare` wrote down; None where there is nothing of it, or something else."""
    try:
        kept: Any = read_json(folder / PREPARED)
        origin = Origin(kept["flags"], kept["sources"], kept["interactions"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    right = isinstance(origin.flags, dict) and isinstance(origin.sources, list)
    return origin if right and all(map(_is_read, origin.sources)) else None


def _is_read(value: object) -> bool:
    """Whether it describes a file that was read."""
    kinds = Read.__annotations__
    return isinstance(value, dict) and all(type(value.get(name)) is kinds[name] for name in kinds)


def require_same(folder: Path, config: PrepareConfig, files: Sequence[Path] | None) -> None:
    """Refuses a data set that is there and was made otherwise.

    Args:
        folder: the data set.
        config: how it would be made now.
        files: the files to read now; None where that is not known, as raw files may be gone.

    Raises:
        UserError: saying what differs.
    """
    origin = read_origin(folder)
    wanted = "expected a new name or --overwrite"
    if origin is None or not (folder / ITEMS).is_file():
        raise UserError(f"--name={config.name}: found {folder} already, {wanted}")
    now = json.loads(json.dumps(config.decisive))
    for flag, after in now.items():
        # A flag that an earlier release didn't have says nothing.
        before = origin.flags.get(flag, after)
        if before != after:
            raise UserError(
                f"--name={config.name}: found {folder} already, made with --{flag}="
                f"{_shown(before)} and not {_shown(after)}, {wanted}"
            )
    changed = _changed(origin.sources, files)
    if changed:
        raise UserError(
            f"--name={config.name}: found {folder} already, made of other files ({changed}), "
            f"{wanted}"
        )
    path = folder / INTERACTIONS
    if not path.is_file() or file_digest(path) != origin.interactions:
        raise UserError(
            f"--name={config.name}: found {folder} already, whose {INTERACTIONS} is no longer as "
            f"it was written, {wanted}"
        )


def _changed(sources: Sequence[Read], files: Sequence[Path] | None) -> str:
    """What is other now; "" where nothing is."""
    known = {each["file"]: each for each in sources}
    if files is not None:
        now = {os.path.abspath(path) for path in files}
        for name in sorted(now ^ set(known)):
            return f"{name} is {'new' if name in now else 'not read any more'}"
    for name, each in known.items():
        path = Path(name)
        if not path.is_file():
            continue  # raw files may be deleted once the data set is there
        status = path.stat()
        if status.st_size != each["bytes"]:
            return f"{name} has {status.st_size:,} bytes now, {each['bytes']:,} before"
        if status.st_mtime_ns != each["mtime_ns"] and file_digest(path) != each["sha256"]:
            return f"{name} has changed"
    return ""


def _shown(value: object) -> str:
    """A flag's value as it is written on the command line."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
