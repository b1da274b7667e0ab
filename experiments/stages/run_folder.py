"""A run's folder: whose it is, which files in it are its own, and who may write there.

A manifest (`run.json`) keeps the identity of the run that the folder belongs to and lists the
files that this run writes. The same run goes on in it; another one is refused, and takes the
folder with `--overwrite`. Only what a manifest lists is ever removed.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypedDict

from experiments.stages.identity import first_difference
from prmkd_jax.common.cache import held
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import may_write
from prmkd_jax.common.reading import open_regular
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json

MANIFEST = "run.json"
# What Orbax writes: a folder an epoch, and one with a longer name while it is being written.
_STATE = re.compile(r"epoch_\d+(\..*)?")
# NUL and half a surrogate pair: what uses such a name as a file's raises.
_NO_NAME = re.compile("[\0\ud800-\udfff]")


class Manifest(TypedDict):
    """The list of a run's files, with what the run depends on, as JSON has it."""

    identity: Mapping[str, object]
    files: list[str]
    finished: bool


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that was examined and found free for a run.

    Attributes:
        path: the folder.
        manifest: the name of the file that lists what is the run's.
        identity: the run's.
        files: the files that the run writes, relative to the folder; a name that ends in "/" is a
            folder of training states.
        found: the folder's content: nothing of ours, this run stopped or finished, or another one
            that is to be replaced.
        before: the files that the manifest there lists.
        seen: the manifest's text; None where there was none.
    """

    path: Path
    manifest: str
    identity: Mapping[str, Any]
    files: tuple[str, ...]
    found: Literal["nothing", "stopped", "finished", "another"]
    before: tuple[str, ...] = ()
    seen: str | None = None


def examine(
    path: Path,
    identity: Mapping[str, object],
    files: Sequence[str],
    *,
    overwrite: bool,
    reads: Collection[str] = (),
    optional: Sequence[str] = (),
    manifest: str = MANIFEST,
    free: Sequence[str] = (),
) -> RunFolder:
    """Looks whether a run may write into a folder; changes nothing.

    Args:
        path: the folder; it may be missing.
        identity: the run's identity.
        files: the files that the run writes, see `RunFolder`.
        overwrite: whether another run's files may be replaced.
        reads: files and folders that the run reads, which must not be among these.
        optional: further files, which not every such run writes.
        manifest: name of the manifest.
        free: names in the identity's `settings` that may change while the run isn't finished.

    Raises:
        UserError: another run's files lie there, or the run reads some of those that it would
            replace, or files that no run has listed are in the way, or a link leads elsewhere.
    """
    # As JSON has it, so that it equals what is read back.
    identity = json.loads(json.dumps(identity))
    planned = (manifest, *files, *optional)
    seen = _text(path / manifest)
    before = _read_manifest(path / manifest)
    listed = set(() if before is None else (manifest, *before["files"]))
    _require_within(path, sorted({*planned, *listed}))
    _require_free(path, planned, listed)
    if before is None:
        return RunFolder(path, manifest, identity, (*files, *optional), "nothing")
    known = tuple(before["files"])
    difference = first_difference(identity, _freed(before, identity, free))
    if difference is None:
        there = all((path / name).exists() for name in known)
        finished = before["finished"] and there and set(files) <= set(known)
        together = tuple(dict.fromkeys((*known, *files, *optional)))
        if not finished:
            _require_no_links(path, together)
        found = "finished" if finished else "stopped"
        return RunFolder(path, manifest, identity, together, found, known, seen)
    if not overwrite:
        raise UserError(
            f"{difference} as in {path / manifest}, the run that is there (take another "
            "--output_dir, or replace that run with --overwrite)"
        )
    _require_unread(path, (manifest, *known), reads)
    return RunFolder(path, manifest, identity, (*files, *optional), "another", known, seen)


@contextlib.contextmanager
def claimed(folder: RunFolder) -> Iterator[None]:
    """Holds a folder that was examined, so that no second run writes there; then `begin`s.

    The lock is a file that the system frees when the process ends, however it ends.

    Raises:
        UserError: another command writes there, or has since the folder was examined.
    """
    with held(folder.path, folder.manifest):
        if _text(folder.path / folder.manifest) != folder.seen:
            raise UserError(
                f"{folder.path / folder.manifest}: found it changed by another command, expected "
                "no other: give the command again"
            )
        begin(folder)
        yield


def begin(folder: RunFolder) -> None:
    """Makes the folder this run's: removes the files of the one before, lists its own.

    The list is written before the files are: none is ever there that isn't listed.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    if folder.found == "another":
        _remove(folder.path, folder.before)
    _write_manifest(folder, folder.files, finished=False)


def finish(folder: RunFolder) -> None:
    """Notes that the run is done, and which of its files there are."""
    written = [name for name in folder.files if (folder.path / name).exists()]
    _write_manifest(folder, written, finished=True)


def remove_states(folder: Path) -> None:
    """Removes the training states in a folder, and the folder if nothing else is in it."""
    if folder.is_dir() and not folder.is_symlink():
        for entry in folder.iterdir():
            if _STATE.fullmatch(entry.name) and entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
        _remove_if_empty(folder)


def _write_manifest(folder: RunFolder, files: Sequence[str], *, finished: bool) -> None:
    content = {"identity": folder.identity, "files": sorted(files), "finished": finished}
    write_sealed_json(folder.path / folder.manifest, content)


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError), open_regular(path) as stream:
        return stream.read().decode()
    return None


def _read_manifest(path: Path) -> Manifest | None:
    """What the manifest says; None where there is none.

    Raises:
        UserError: it is no manifest, or lists what lies outside its folder.
    """
    try:
        content = read_sealed_json(path)
        found = Manifest(
            identity=content["identity"], files=content["files"], finished=content["finished"]
        )
        outside = [name for name in found["files"] if not _is_inside(name)]
        if outside or not isinstance(found["identity"], dict):
            raise ValueError(outside)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise UserError(f"{path}: found it without permission to read, expected it") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: found no list of a run's files, expected one (move it, or take another "
            "--output_dir)"
        ) from None
    return found


def _freed(
    before: Manifest, identity: Mapping[str, Any], free: Sequence[str]
) -> Mapping[str, object]:
    """The identity of the run that is there, as it is compared: a stopped one's may change."""
    found = before["identity"]
    if before["finished"] or not free:
        return found
    settings = found.get("settings")
    changed = {name: identity["settings"][name] for name in free}
    return found if not isinstance(settings, dict) else {**found, "settings": settings | changed}


def _is_inside(name: str) -> bool:
    r"""Whether a name is one of a file in the folder, as far as its text says.

    >>> [_is_inside(name) for name in ("a/b", "../b", "/b", ".", "a\0b", "a\ud800")]
    [True, False, False, False, False, False]
    """
    path = PurePosixPath(name)
    odd = _NO_NAME.search(name) or path.is_absolute() or ".." in path.parts
    return bool(path.parts) and not odd


def _require_within(path: Path, names: Sequence[str]) -> None:
    """Refuses names of files that would be written or removed in another place.

    A folder below the run's may be a link. The run's own may be one.

    Raises:
        UserError: naming the link's end, or why the system can't tell.
    """
    root = Path(os.path.realpath(path))
    for name in names:
        place = path / name
        folder = Path(os.path.realpath(place if name.endswith("/") else place.parent))
        if not folder.is_relative_to(root):
            raise UserError(
                f"{place}: found it in {folder}, by a link, expected it inside {path} (remove the "
                "link, or take another --output_dir)"
            )
        try:
            os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise UserError(f"{place}: {error.strerror}, expected a run's file") from error


def _require_no_links(path: Path, names: Sequence[str]) -> None:
    """Refuses links in place of a stopped run's files: a log would grow where they lead.

    Raises:
        UserError: naming the first one.
    """
    for name in names:
        if (path / name).is_symlink():
            raise UserError(
                f"{path / name}: found a link, expected a file that the stopped run has written "
                "(remove the link, or take another --output_dir)"
            )


def _require_free(path: Path, planned: Sequence[str], listed: set[str]) -> None:
    """Refuses what is in the way of the files to be written.

    Raises:
        UserError: naming it.
    """
    for folder in sorted({parent for name in planned for parent in (path / name).parents}):
        if os.path.lexists(folder) and not folder.is_dir():
            raise UserError(
                f"{folder}: found a file, expected a folder or nothing (--output_dir={path})"
            )
    for name in planned:
        place = path / name
        is_folder = name.endswith("/")
        if not os.path.lexists(place) or (is_folder and place.is_dir() and not any_in(place)):
            continue
        if name not in listed or place.is_dir() != is_folder:
            kind = "folder" if place.is_dir() else "file"
            raise UserError(
                f"{place}: found a {kind} that no run listed as its own, expected none (move it, "
                "or take another --output_dir)"
            )
    nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not may_write(nearest):
        raise UserError(f"--output_dir: found {nearest} without permission to write, expected it")


def _require_unread(path: Path, removed: Sequence[str], reads: Collection[str]) -> None:
    """Refuses to remove what is read: a file itself, or one directly in a folder that is read.

    Folders are not looked through further: one that is read may hold the output folder.

    Raises:
        UserError: naming what is read.
    """
    places = [Path(os.path.realpath((path / name).parent), Path(name).name) for name in removed]
    for read in reads:
        real = Path(os.path.realpath(read))
        for place in places:
            if place.parent == real or place in (real, *real.parents):
                raise UserError(
                    f"--output_dir: found {place}, which --overwrite would remove and this "
                    f"command reads ({read}), expected another --output_dir"
                )


def any_in(folder: Path) -> bool:
    """Whether a folder has an entry."""
    return next(folder.iterdir(), None) is not None


def _remove(path: Path, files: Sequence[str]) -> None:
    """Removes listed files, training states, and the folders that are empty then."""
    for name in files:
        place = path / name
        if name.endswith("/"):
            remove_states(place)
        elif not place.is_dir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                place.unlink()
    folders = {parent for name in files for parent in PurePosixPath(name).parents}
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        if folder.parts:
            _remove_if_empty(path / folder)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
