"""The cache that runs share: its rooms, and a lock for each entry while it is made.

<root>/texts      vectors of texts, by encoder and content
       images     vectors of images, by encoder and content
       tokens     Recformer's tokens, by tokenizer and content
       tuning     state of each tuning under way
       teachers   tuned teachers and their vectors, a folder each
       compiled   XLA's compiled programs
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prmkd_jax.common.files import remove_leftovers
from prmkd_jax.common.sealed import is_sealed, writing_sealed

_LOG = logging.getLogger(__name__)

ROOMS = ("texts", "images", "tokens", "tuning", "teachers", "compiled")


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
                    remove_leftovers(path.parent)
                    with writing_sealed(path) as partial:
                        make(partial)
        return path

    def has(self, room: str, name: str) -> bool:
        """Whether an entry is there and as it was written."""
        return is_sealed(self.room(room) / name)


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the lock of a cache entry; waits while another process holds it.

    The lock is a file next to the entry. The system frees it when its process ends, however it
    ends, so a lock file that was left over blocks nobody.

    Args:
        path: the entry's file or folder.
        on_wait: called once if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if on_wait is not None:
            on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
