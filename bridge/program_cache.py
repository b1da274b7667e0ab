"""JAX's cache of compiled programs: what a full disk or a kill has cut is removed.

JAX writes an entry in its place and never writes one again that is there, so a cut one would be
warned of, and its program compiled, in every run from then on.
"""

import contextlib
import os
import time
import zlib
from pathlib import Path

_SEEN = ".seen"
_SECOND = 10**9  # file systems tell the time less exactly
_ZSTD = b"\x28\xb5\x2f\xfd"


def remove_damaged(folder: Path) -> None:
    """Removes entries that can't be unpacked, of those written since the last call.

    One that another process is writing may be among them: it is made again later.

    Args:
        folder: the cache; it needn't be there.
    """
    with contextlib.suppress(OSError):  # a cache that can't be read is of no use, and no harm
        seen, now = folder / _SEEN, time.time_ns() - _SECOND
        since = seen.stat().st_mtime_ns if seen.is_file() else 0
        entries = [path for path in folder.iterdir() if path.name.endswith("-cache")]
        newer = [path for path in entries if path.stat().st_mtime_ns >= since]
        if newer:
            seen.touch()
            os.utime(seen, ns=(now, now))
        for path in newer:
            if not _is_whole(path.read_bytes()):
                path.unlink()


def _is_whole(packed: bytes) -> bool:
    """Whether an entry can be unpacked; True where only another library could tell."""
    if packed.startswith(_ZSTD):
        return True
    unpack = zlib.decompressobj()
    try:
        unpack.decompress(packed)
    except zlib.error:
        return False
    return unpack.eof
