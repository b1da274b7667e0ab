"""Finds the files that a path, a folder of part files or a pattern stands for, and reads lines.

Spark and Dask leave `_SUCCESS`, `._metadata.crc`, hidden files and empty parts next to
the data; none of them is data. Files are sorted by name, and gzip is known by its first bytes.
"""

import glob
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import is_there

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading damaged or incomplete gzip data raises."""
BLOCK_BYTES = 32 << 20
# No line of a review or a catalogue comes near; what is longer is no file of lines.
LINE_BYTES = 64 << 20
# A format that is one JSON value has to be held as a whole.
WHOLE_BYTES = 2 << 30
_FILLED = re.compile(rb"\S[^\n]*")
# What packed data begin with; polars would unpack them, to whatever size.
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x78\x01": "zlib",
    b"\x78\x5e": "zlib",
    b"\x78\x9c": "zlib",
    b"\x78\xda": "zlib",
}


class MissingSource(UserError):
    """No file is where the sources are looked for; raw files may be deleted after `prepare`."""


class Block(NamedTuple):
    """Whole lines of a file, and the number of the first one, from 1."""

    text: bytes
    first_line: int

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The number of each line that isn't blank, and the line without blanks before it.

        A blank line takes no memory: there may be millions of them in a block.
        """
        number, counted = self.first_line, 0
        for line in _FILLED.finditer(self.text):
            number += self.text.count(b"\n", counted, line.start())
            counted = line.start()
            yield number, line.group()


def expanded(path: str) -> Path:
    """A path of the user's, with `~` and `$VAR` filled in."""
    return Path(os.path.expanduser(os.path.expandvars(path)))


def find(flag: str, patterns: Sequence[str]) -> list[Path]:
    """The data files of paths, folders and patterns, sorted by name.

    Each is there once, whatever names and links lead to it.

    Raises:
        MissingSource: one of them stands for no file.
        UserError: one of them stands for a format that is not read.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        one = expanded(pattern)
        if os.path.isfile(one):
            paths = [one]
        elif os.path.isdir(one):
            paths = _parts_in(one)
        else:
            paths = []
            for path in map(Path, glob.glob(str(one), recursive=True)):
                # What was asked for itself is neither a file nor a folder.
                passed = path == one or path.name.startswith((".", "_"))
                paths += [] if passed else _parts_in(path) if path.is_dir() else _parts_at(path)
        if not paths:
            what = "no data in folder" if os.path.isdir(one) else "no file"
            raise MissingSource(
                f"--{flag}: found {what} {pattern!r}, expected a file, folder or glob"
            )
        # `latest.csv`, a link to a part beside it, would double that part's rows.
        for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
            found.setdefault(os.path.realpath(path), path)
    kinds = sorted({format_of(path) for path in found.values()})
    if len(kinds) > 1:
        raise UserError(
            f"--{flag}: found files of several formats ({', '.join(kinds)}), expected one"
        )
    return [*found.values()]


def _parts_in(folder: Path) -> list[Path]:
    """The data below a folder, also behind links to folders, each of which is entered once.

    Raises:
        UserError: as `_is_part`.
        OSError: a folder can't be read.
    """

    def unreadable(error: OSError) -> None:
        raise error

    found: list[Path] = []
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        paths = (Path(place, name) for name in names)
        found += [path for path in paths if _is_part(path, folder)]
    return found


def _parts_at(path: Path) -> list[Path]:
    return [path] if _is_part(path, path.parent) else []


def _is_part(path: Path, folder: Path) -> bool:
    """Whether a file below a folder is data.

    Raises:
        UserError: a link leads to a file that is gone, or it is no regular one: its rows would be
            missing.
    """
    names = path.relative_to(folder).parts
    hidden = any(name.startswith((".", "_")) for name in names)
    if hidden or path.suffix == ".crc" or path.is_dir():
        return False
    return is_there(path) and path.stat().st_size > 0


def format_of(path: Path) -> str:
    """csv, tsv, jsonl or parquet, by the name without `.gz`.

    >>> format_of(Path("part-0000.csv.gz"))
    'csv'

    Raises:
        UserError: the name says none of them.
    """
    name = path.name.lower().removesuffix(".gz")
    kind = FORMATS.get(os.path.splitext(name)[1])
    if kind is None:
        wanted = ", ".join(FORMATS)
        raise UserError(f"{path}: found no known ending, expected one of {wanted}, or one with .gz")
    return kind


def is_gzip(path: Path) -> bool:
    """Whether a file begins as gzip does."""
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def open_binary(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """Opens a file; gzip is unpacked on the way."""
    if is_gzip(path):
        return gzip.open(path, "rb")
    return path.open("rb")


def packing(text: bytes) -> str:
    """How a text is packed, by its first bytes; "" where it isn't.

    >>> packing(b"\\x28\\xb5\\x2f\\xfd"), packing(b"item_id")
    ('zstd', '')
    """
    return next((name for begin, name in _PACKED.items() if text.startswith(begin)), "")


def blocks(path: Path, size: int = BLOCK_BYTES) -> Iterator[Block]:
    """Reads a file of lines in blocks of about `size` bytes, never cutting a line.

    Raises:
        UserError: the gzip data are damaged or cut off, a line has no end, or what was unpacked
            is packed again or in another way.
    """
    line, rest = 1, b""
    with open_binary(path) as stream:
        while True:
            try:
                piece = stream.read(size)
            except DAMAGED as error:
                raise UserError(
                    f"{path}, after line {line}: found damaged gzip data ({error}), expected a "
                    "complete file"
                ) from None
            if not piece:
                break
            end = piece.rfind(b"\n") + 1
            if end:
                text = rest + piece[:end]
                yield _unpacked(path, Block(text, line))
                line += text.count(b"\n")
                rest = piece[end:]
            else:
                rest += piece
            if len(rest) > LINE_BYTES:
                raise UserError(
                    f"{path}, line {line}: found more than {LINE_BYTES >> 20} MiB, "
                    "expected a line break"
                )
    if rest.strip():
        yield _unpacked(path, Block(rest, line))


def _unpacked(path: Path, block: Block) -> Block:
    """The block, if it isn't packed.

    Raises:
        UserError: it is.
    """
    if found := packing(block.text):
        raise UserError(
            f"{path}, line {block.first_line}: found data packed by {found}, expected text "
            "(or gzip, once)"
        )
    return block


def open_text(path: Path) -> io.TextIOWrapper:
    """Opens a file as UTF-8 text, without its byte-order mark, keeping line ends as they are."""
    return io.TextIOWrapper(open_binary(path), encoding="utf-8-sig", newline="")


def whole_text(path: Path) -> str:
    """Reads a file of bounded size as a whole.

    Raises:
        MissingSource: it is not there.
        UserError: it is damaged, too large, or not UTF-8.
    """
    if not path.is_file():
        raise MissingSource(f"{path}: found no file, expected it")
    if path.stat().st_size > WHOLE_BYTES:
        raise UserError(f"{path}: found more than {WHOLE_BYTES >> 30} GiB, expected less")
    try:
        with open_binary(path) as stream:
            data = stream.read(WHOLE_BYTES + 1)
    except DAMAGED as error:
        raise UserError(f"{path}: found damaged gzip data ({error})") from None
    if len(data) > WHOLE_BYTES:
        raise UserError(f"{path}: found more than {WHOLE_BYTES >> 30} GiB unpacked, expected less")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: found {error.reason} at byte {error.start}, expected UTF-8"
        ) from None
