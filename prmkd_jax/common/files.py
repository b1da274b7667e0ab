"""Files written complete or not at all.

A file is written under a temporary name in its own folder, which says who writes it, is flushed
to the disk and then renamed. A reader sees the old file or the new one, after a crash too. Whoever
writes a file next removes what a killed process has left of it.
"""

import contextlib
import glob
import json
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from prmkd_jax.common.errors import UserError


def _machine() -> str:
    """Stands for the processes that can be looked for from here: those of a host or container."""
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"prmkd{zlib.crc32(f'{platform.node()} {space}'.encode()):08x}"


MACHINE = _machine()
"""Ends the names of temporary files. The program's name is in it: nobody else's are called so."""
# Left over where a process was killed: `<name>.partial-<pid>-<machine>`; a cache may be shared.
_PARTIAL = re.compile(r"\.partial-(\d+)-(prmkd[0-9a-f]{8})$", re.ASCII)
# No file is written for a day: after it, what another machine's process left is left over too.
_DEAD_AFTER = 24 * 3600.0
_STARTED = time.time()
_ROOM = 2**20
_CLEANED: set[Path] = set()


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
    _clean_once(path.parent)
    partial = _partial(path)
    try:
        with _naming(path, partial):
            yield partial
            flush(partial)
            os.replace(partial, path)
            flush_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(folder: Path, replaced: Collection[str] | None = None) -> Iterator[Path]:
    """Yields an empty temporary folder to fill; it takes the place of `folder`.

    An error inside leaves `folder` as it was and no temporary folder. Where the process is
    killed between the two renames, the old folder is next to it as `.<name>.old-<pid>-<machine>`.

    Args:
        folder: made, or replaced.
        replaced: names of what the new folder stands for; other entries of the old one move into
            it. None stands for all.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clean_once(folder.parent)
    recover_folder(folder, replaced)
    partial = _partial(folder.with_name(f".{folder.name}"))
    _remove(partial)
    partial.mkdir()
    try:
        with _naming(folder, partial / "room"):
            yield partial
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                flush(path)
            else:
                flush_folder(path)
        flush_folder(partial)
        old = folder.with_name(f".{folder.name}.old-{os.getpid()}-{MACHINE}")
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(partial, folder)
        except BaseException:
            if old.exists():
                os.rename(old, folder)
            raise
        flush_folder(folder.parent)
        _remove_old(old, folder, replaced)
    finally:
        _remove(partial)


@contextlib.contextmanager
def writing_into(folder: Path, last: str) -> Iterator[Path]:
    """Yields an empty temporary folder to fill; its files then replace those of the same name.

    Other files in `folder` stay.

    Args:
        folder: made where it is missing.
        last: the file that says that the others are complete; the old one is removed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _clean_once(folder)
    partial = _partial(folder / last)
    _remove(partial)
    partial.mkdir()
    try:
        with _naming(folder, partial / "room"):
            yield partial
        files = [path.relative_to(partial) for path in partial.rglob("*") if path.is_file()]
        for file in files:
            flush(partial / file)
        (folder / last).unlink(missing_ok=True)
        for file in sorted(files, key=lambda file: (str(file) == last, file)):
            (folder / file).parent.mkdir(exist_ok=True)
            os.replace(partial / file, folder / file)
        for place in {(folder / file).parent for file in files} | {folder}:
            flush_folder(place)
    finally:
        _remove(partial)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files and folders of processes that no longer run, no other's.

    What an earlier version left without the program's name stays: it might be anybody's.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _PARTIAL.search(path.name)
        if found and not _is_written(path, int(found[1]), found[2]):
            _remove(path)


def may_write(folder: Path) -> bool:
    """Whether files can be made in a folder."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def write_json(path: Path, content: object) -> None:
    """Writes sorted, indented JSON; equal contents give equal bytes.

    Raises:
        ValueError: `content` holds a number that is not finite.
    """
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text."""
    with writing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_json_line(path: Path, content: object) -> None:
    """Adds one line to a log of JSON lines; a line that a crash cut stays alone."""
    with _naming(path), path.open("ab+") as stream:
        line = json.dumps(content, sort_keys=True).encode() + b"\n"
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else b"\n" + line
        stream.write(line)


@contextlib.contextmanager
def _naming(path: Path, written: Path | None = None) -> Iterator[None]:
    """Gives an error of the system the name of a file, as that of a full disk has none.

    Args:
        path: the name.
        written: file in which the room is looked for where not even a number says what is wrong:
            NumPy only tells how much it could write, and libraries in Rust raise what they like.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
        if found[0] is None and written is not None:
            found = _no_room(written)
        if found[0] is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(found[0], found[1] or str(error), str(path)) from error


def _no_room(path: Path) -> tuple[int | None, str | None]:
    """Number and text of what the system says to a file that grows; None if it may."""
    try:
        with path.open("ab") as stream:
            stream.write(bytes(_ROOM))
            os.fsync(stream.fileno())
    except OSError as error:
        return error.errno, error.strerror
    return None, None


def file_state(path: Path) -> tuple[int, ...]:
    """What is another where a file was written or replaced; empty where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def flush(path: Path) -> None:
    """Waits until a file's content is on the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    # Windows can't open a folder; there the rename alone has to do.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial-{os.getpid()}-{MACHINE}")


def _clean_once(folder: Path) -> None:
    """Removes the leftovers in a folder when this process writes there for the first time."""
    folder = folder.absolute()
    if folder not in _CLEANED:
        _CLEANED.add(folder)
        remove_leftovers(folder)


def recover_folder(folder: Path, replaced: Collection[str] | None = None) -> None:
    """Brings an old folder back whose process was killed amid its replacement, or removes it.

    Args:
        folder: the folder, as given to `writing_folder`.
        replaced: names of the files to be replaced, as given to `writing_folder`.
    """
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.old-*"):
        pid, _, machine = old.name.rpartition(".old-")[2].partition("-")
        if machine == MACHINE and pid.isdecimal() and not process_runs(int(pid)):
            if os.path.lexists(folder):
                _remove_old(old, folder, replaced)
            else:
                os.rename(old, folder)


def _remove_old(old: Path, folder: Path, replaced: Collection[str] | None) -> None:
    """Removes a folder that was replaced; what the new one doesn't stand for moves into it.

    An entry whose name is taken there stays where it is.
    """
    if replaced is None or not old.is_dir():
        _remove(old)
        return
    entries = [*old.iterdir()]
    for entry in entries:
        if entry.name not in replaced and not os.path.lexists(folder / entry.name):
            os.rename(entry, folder / entry.name)
    flush_folder(folder)
    for entry in entries:
        if entry.name in replaced:
            _remove(entry)
    with contextlib.suppress(OSError):
        old.rmdir()


def _is_written(path: Path, pid: int, machine: str) -> bool:
    """Whether a temporary file's process may still be at it."""
    try:
        changed = path.stat().st_mtime
    except OSError:
        return False
    if machine == MACHINE:
        # In a container an ended process often had the number that this one has.
        alive = changed > _STARTED - 1 if pid == os.getpid() else process_runs(pid)
    else:
        alive = True
    return alive and time.time() - changed < _DEAD_AFTER


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def process_runs(pid: int) -> bool:
    """Whether a process of this number is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
