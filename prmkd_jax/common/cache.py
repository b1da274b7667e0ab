"""The cache that runs share: its rooms, and a lock for each entry while it is made.

<root>/texts      vectors of texts, by encoder and content
       images     vectors of images, by encoder and content
       tokens     Recformer's tokens, by tokenizer and content
       tuning     state of each tuning under way
       teachers   tuned teachers and their vectors, a folder each
       peers      environments of other libraries, which `bench --suite=peers` makes
       jax        XLA's compiled programs, which JAX keeps there by itself
"""

import contextlib
import dataclasses
import errno
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import is_sealed, writing_sealed

_LOG = logging.getLogger(__name__)

ROOMS = ("texts", "images", "tokens", "tuning", "teachers", "peers")
# What a file system answers that has no locks, as some network ones.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclasses.dataclass(frozen=True)
class Cache:
    """A folder with one room for each kind of entry.

    Attributes:
        root: the folder; made when the first entry is.
    """

    root: Path

    def room(self, name: str) -> Path:
        """The folder of one kind of entry, a name of `ROOMS`.

        Raises:
            ValueError: there is no such room.
        """
        if name not in ROOMS:
            raise ValueError(f"cache room: found {name!r}, expected one of {', '.join(ROOMS)}")
        return self.root / name

    def entry(self, room: str, name: str, make: Callable[[Path], None]) -> Path:
        """The file of an entry, made unless it is there; other processes wait meanwhile.

        The file is sealed (`common.sealed`): a damaged one is made again, with a warning.

        Args:
            room: a name of `ROOMS`.
            name: file name, which holds a hash of all that the content depends on.
            make: writes the content to the path that it is given.
        """
        path = self.room(room) / name
        if not is_sealed(path):
            with locked(path):
                if not is_sealed(path):
                    if path.exists():
                        _LOG.warning("%s: found it damaged; it is made again", path)
                    with writing_sealed(path) as partial:
                        make(partial)
        return path

    def has(self, room: str, name: str) -> bool:
        """Whether an entry is there and as it was written."""
        return is_sealed(self.room(room) / name)


@contextlib.contextmanager
def locked(
    path: Path, on_wait: Callable[[], None] | None = None, keep: bool = True
) -> Iterator[None]:
    """Holds the lock of a cache entry; waits while another process holds it.

    The lock is a file next to the entry. The system frees it when its process ends, however it
    ends, so a lock file that was left over blocks nobody.

    Args:
        path: the entry's file or folder.
        on_wait: called once if another process holds the lock.
        keep: whether the lock file stays, which saves whoever comes next from making it.

    Raises:
        UserError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = _lock(path.with_name(f"{path.name}.lock"))
    if not _acquire(lock, blocking=False):
        if on_wait is not None:
            on_wait()
        _acquire(lock, blocking=True)
    try:
        yield
    finally:
        _release(lock, keep)


@contextlib.contextmanager
def held(folder: Path, name: str, target: Path | None = None, keep: bool = True) -> Iterator[None]:
    """Holds a folder, or one of its files, for writing; a second process is refused.

    Args:
        folder: made if missing.
        name: the part of the folder that is written; commands that write other parts don't exclude
            each other.
        target: the path that an error names; by default the folder.
        keep: whether the lock file stays.

    Raises:
        UserError: another process writes there, or the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder / f".{name}.lock")
    if not _acquire(lock, blocking=False):
        raise UserError(
            f"{target or folder}: found another command that writes there, expected none: wait "
            f"for it, or take another {'name' if target else 'folder'}"
        )
    try:
        yield
    finally:
        _release(lock, keep)


def _lock(path: Path) -> FileLock:
    # A lock that is a file's mere existence would outlive a process that was killed.
    return FileLock(path, fallback_to_soft=False)


def _release(lock: FileLock, keep: bool) -> None:
    if not keep:
        # Who waits with the file open sees that its name is gone, and makes a new one (filelock
        # compares them). Windows removes no open file.
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _acquire(lock: FileLock, *, blocking: bool) -> bool:
    """Whether the lock was got.

    Raises:
        UserError: the file system has no locks.
    """
    try:
        lock.acquire(blocking=blocking)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        folder = Path(lock.lock_file).parent
        raise UserError(
            f"{folder}: found a file system without locks ({error.strerror}), expected one with "
            "them, so that no two commands write the same file: take another folder"
        ) from error
    return True
