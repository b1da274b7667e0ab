"""Files as they are read: regular ones, of a bounded size, and the same until all is read."""

import contextlib
import errno
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import file_state

LARGEST_JSON = 2**30  # bytes; the ids and titles of a million items take a tenth


def open_regular(path: Path) -> io.BufferedReader:
    """Opens a file to read, if it is one: a pipe would wait, and a device never end.

    Raises:
        OSError: it can't be opened, or is no regular file.
    """
    # Not to wait for whoever writes into a pipe; of a regular file it changes nothing.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # NUL, or half a character: a catalogue may name anything
        raise OSError(errno.EINVAL, "no file has such a name", str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def is_there(path: Path) -> bool:
    """Whether a file is there that may be missing.

    Raises:
        UserError: something else is in its place, such as a link to a file that is gone: passed
            over in silence, it would give other numbers.
    """
    if path.is_file():
        return True
    if os.path.lexists(path):
        kind = "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else ""
        raise UserError(f"{path}: found {kind or 'no regular file'}, expected a file or nothing")
    return False


@contextlib.contextmanager
def unchanged(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Holds while files that belong together are read one after another.

    A digest is of what lay there when it was made: what is read after it may be another file.

    Args:
        folder: holds them, or is a link to what does.
        names: names of the files; missing ones must stay so.

    Raises:
        UserError: at the end, if one was replaced or written meanwhile.
    """
    before = _stamps(folder, names)
    yield
    if _stamps(folder, names) != before:
        raise UserError(f"{folder}: found it replaced while it was read, expected it to stay")


def file_states(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """The states of files that are going to be read, for `require_states`."""
    return {path: file_state(path) for path in paths}


def require_states(states: Mapping[Path, tuple[int, ...]]) -> None:
    """Refuses files that were written or replaced since.

    Raises:
        UserError: naming the first.
    """
    for path, state in states.items():
        if file_state(path) != state:
            raise UserError(f"{path}: found it changed while it was read, expected it to stay")


def _stamps(folder: Path, names: Collection[str]) -> list[tuple[int, ...]]:
    """What tells a file from another one, and from itself with another content."""
    return [file_state(folder / name) for name in names]


class RepeatedField(ValueError):
    """An object has a field twice: readers would take the last one in silence.

    Args:
        name: the field's name.
    """

    def __init__(self, name: str):
        super().__init__(f"the field {name!r} stands there twice")
        self.name = name


def each_once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """A JSON object's fields, for `object_pairs_hook`.

    Raises:
        RepeatedField: one is there twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise RepeatedField(next(name for name, count in counts.items() if count > 1))
    return fields


def parse_json(text: str | bytes) -> object:
    """A JSON value.

    Raises:
        RepeatedField: an object in it has a field twice.
        ValueError: it is none, or is nested so deeply that nobody could read it.

    >>> parse_json('{"k": [1, null]}')
    {'k': [1, None]}
    """
    try:
        return json.loads(text, object_pairs_hook=each_once)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None


def read_json(path: Path) -> object:
    """The JSON value in a regular file.

    Raises:
        OSError: the file can't be read.
        ValueError: it is no JSON, or larger than `LARGEST_JSON`.
    """
    with open_regular(path) as stream:
        content = stream.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise ValueError(f"it has more than {LARGEST_JSON >> 20} MB")
    return parse_json(content.decode())
