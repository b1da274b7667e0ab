"""Files written complete or not at all, and their hashes.

A file is written under a temporary name in its own folder, which holds the process id, is flushed
to the disk and then renamed. A reader sees the old file or the new one, after a crash too.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# Left over where a process was killed: `<name>.partial-<pid>`.
_PARTIAL = re.compile(r"\.partial-(\d+)$")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write; the finished file replaces `path`.

    An error inside leaves `path` as it was and no temporary file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with writing(path) as partial:
    ...     _ = partial.write_text("1 2 3")
    >>> path.read_text()
    '1 2 3'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
        _flush_folder(path.parent)
    except OSError as error:
        # The error of a full disk names no file.
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(folder: Path, kept: str | None = None) -> Iterator[Path]:
    """Yields an empty temporary folder to fill; it takes the place of `folder`.

    An error inside leaves `folder` as it was and no temporary folder. Where the process is
    killed between the two renames, the old folder is next to it as `.<name>.old-<pid>`.

    Args:
        folder: made, or replaced.
        kept: subfolder of the old folder that moves into the new one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(folder.with_name(f".{folder.name}"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                flush(path)
        _flush_folder(partial)
        old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(partial, folder)
        except OSError:
            if old.exists():
                os.rename(old, folder)
            raise
        if kept is not None and (old / kept).is_dir():
            os.rename(old / kept, folder / kept)
        _flush_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def writing_into(folder: Path, last: str) -> Iterator[Path]:
    """Yields an empty temporary folder to fill; its files then replace those of the same name.

    Other files in `folder` stay.

    Args:
        folder: made where it is missing.
        last: the file that says that the others are complete; the old one is removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{last}.partial-", dir=folder) as name:
        partial = Path(name)
        yield partial
        files = [path.relative_to(partial) for path in partial.rglob("*") if path.is_file()]
        for file in files:
            flush(partial / file)
        (folder / last).unlink(missing_ok=True)
        for file in sorted(files, key=lambda file: (str(file) == last, file)):
            (folder / file).parent.mkdir(exist_ok=True)
            os.replace(partial / file, folder / file)
        _flush_folder(folder)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files in `folder` of processes that no longer run."""
    for path in folder.glob("*.partial-*") if folder.is_dir() else ():
        found = _PARTIAL.search(path.name)
        if found and not process_runs(int(found.group(1))):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes sorted, indented JSON; equal contents give equal bytes.

    Raises:
        ValueError: `content` holds a number that is not finite.
    """
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_json_line(path: Path, content: Any) -> None:
    """Adds one line to a log of JSON lines."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(content, sort_keys=True) + "\n")


def flush(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of several files, in order, 64 hex digits; names don't count."""
    digests = b"".join(bytes.fromhex(file_digest(path)) for path in paths)
    return hashlib.sha256(digests).hexdigest()


def content_digest(content: Any) -> str:
    """SHA-256 of JSON content, 64 hex digits; the order of keys doesn't matter.

    >>> content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial-{os.getpid()}")


def _flush_folder(folder: Path) -> None:
    # Windows can't open a folder; there the rename alone has to do.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def process_runs(pid: int) -> bool:
    """Whether a process of this number is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
