"""A disk that is really full: a small one in memory, of which a command's folder is the whole."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 4096
_ROOMY = 2**30


def used(folder: Path) -> int:
    """Bytes that a folder's files take, in whole blocks."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(-(-path.stat().st_size // _BLOCK) * _BLOCK + _BLOCK for path in files)


@contextlib.contextmanager
def on_own_disk(place: Path) -> Iterator[None]:
    """Puts a folder on a disk of its own, which `resize` makes smaller; for root alone."""
    aside = place.with_name(f"{place.name}.aside")
    place.rename(aside)
    place.mkdir()
    _mount(place, "size", _ROOMY)
    try:
        shutil.copytree(aside, place, dirs_exist_ok=True)
        yield
        shutil.rmtree(aside)
        resize(place, _ROOMY)
        shutil.copytree(place, aside)
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()
        aside.rename(place)


def resize(place: Path, free: int) -> None:
    """Leaves so many bytes free on the disk of `on_own_disk`."""
    found = os.statvfs(place)
    taken = (found.f_blocks - found.f_bfree) * found.f_frsize
    _mount(place, "remount,size", taken + max(free // _BLOCK, 1) * _BLOCK)


def _mount(place: Path, option: str, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{option}={size}", "tmpfs", place], check=True)
