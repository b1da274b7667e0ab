"""Training states on disk; the only module that knows orbax and its storage, tensorstore."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import jax
import numpy as np
import tensorstore
from orbax.checkpoint import v1 as ocp

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line, shortened
from prmkd_jax.common.files import flush, flush_folder
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.ops.arrays import Array

TreeT = TypeVar("TreeT")

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"epoch_(\d+)")
# The digests of a state's files stand in its folder; they are written last.
_DIGESTS = "digests.json"
_KEPT = 2
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")


def save_checkpoint(folder: Path, epoch: int, state: object, progress: dict[str, Any]) -> None:
    """Writes the state after an epoch, then removes the older ones but for the last.

    Orbax writes under another name and renames, and a state without digests doesn't count, so a
    kill leaves the one before.

    Args:
        folder: the run's own folder.
        epoch: epochs done.
        state: pytree of arrays.
        progress: everything else that a resumed run needs, as JSON values.

    Raises:
        OSError: it can't be written.
    """
    leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state))}
    # The caller donates its arrays to the next step, so the save must be over on return.
    path = folder.absolute() / f"epoch_{epoch}"
    for unfinished in folder.glob("epoch_*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished)
    try:
        with _alone(), _quiet():
            ocp.save(str(path), leaves, overwrite=True, custom_metadata=progress)
    except ValueError as error:
        # Orbax's writer tells the system's errors, such as a full disk, in its text alone.
        if (found := _OS_ERROR.search(str(error))) is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    for file in _files(path):
        flush(path / file)
    for inner in (each for each in path.rglob("*") if each.is_dir()):
        flush_folder(inner)
    write_sealed_json(path / _DIGESTS, {"files": _digests(path)})
    flush_folder(folder)
    older = [other for other in _finished(folder) if other < epoch]
    for other in _epochs(folder):
        if other != epoch and other not in older[1 - _KEPT :]:
            shutil.rmtree(folder / f"epoch_{other}")


def load_checkpoint(folder: Path, like: TreeT) -> tuple[TreeT, dict[str, Any]] | None:
    """The newest state in a folder and its progress; None where there is none.

    In place of a damaged state the one before is read, with a warning.

    Args:
        folder: the run's own folder.
        like: pytree of arrays with the structure, shapes, dtypes and devices to be restored.
            NumPy arrays are restored as such.

    Raises:
        UserError: all states are damaged, orbax can't read the newest, or the arrays there are
            others, as after a change of the data.
    """
    finished = _finished(folder)
    for epoch in reversed(finished):
        path = folder.absolute() / f"epoch_{epoch}"
        if _is_intact(path):
            return _read(path, like)
        if epoch != finished[0]:
            _LOG.warning("%s: found it damaged; going on from the state before", path)
    if not finished:
        return None
    count = (
        "1 training state, damaged"
        if len(finished) == 1
        else f"{len(finished)} training states, all damaged"
    )
    raise UserError(
        f"{folder}: found {count}, expected an intact one (delete {folder} to train from the "
        "beginning)"
    )


def _read(path: Path, like: TreeT) -> tuple[TreeT, dict[str, Any]]:
    leaves, structure = jax.tree.flatten(like)
    abstract = {str(index): _wanted(leaf) for index, leaf in enumerate(leaves)}
    with _alone():
        try:
            _require_open(path)
            metadata = ocp.metadata(str(path))
            if metadata.metadata is None:
                raise ValueError("it has no metadata")
            _require_same(path, _shapes(metadata.metadata), _shapes(abstract))
            restored: Any = ocp.load(str(path), abstract)
        except UserError:
            raise
        except Exception as error:  # whatever orbax says of what another version has written
            raise UserError(
                f"{path}: found a training state that orbax can't read "
                f"({shortened(first_line(error))}), expected one of this version; delete "
                f"{path.parent} to train from the beginning"
            ) from error
    progress: Any = metadata.custom_metadata
    ordered = [restored[str(index)] for index in range(len(leaves))]
    return jax.tree.unflatten(structure, ordered), dict(progress or {})


def _require_open(path: Path) -> None:
    """Opens a state's databases, which fails at once where one can't be read.

    Orbax asks for all arrays together and leaves at the first error; those of the others come when
    nobody waits for them any more, as tracebacks beside our one line.
    """
    for manifest in sorted(path.glob("*/manifest.ocdbt")):
        database = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{manifest.parent}/"}}
        tensorstore.KvStore.open(database).result().list().result()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What orbax raises is told in one line; its threads log the same with their tracebacks."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of several processes one writes and each reads by itself: orbax is to wait for nobody.

    Besides its options it asks JAX for the number of processes, and exchanges the folder's name
    with all of them, whichever are to take part.
    """
    if jax.process_count() == 1:
        yield
        return
    own = jax.process_index()
    context = ocp.Context()
    context.multiprocessing.primary_host = own
    context.multiprocessing.active_processes = {own}
    context.multiprocessing.barrier_sync_key_prefix = f"process{own}"
    with context, mock.patch.object(jax, "process_count", return_value=1):
        yield


def _wanted(leaf: Array) -> jax.ShapeDtypeStruct | np.ndarray:
    """How orbax is told where an array goes: NumPy's stay NumPy's."""
    if isinstance(leaf, np.ndarray):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _is_intact(path: Path) -> bool:
    """Whether a state's files are those that were written, all of them and no more."""
    try:
        return read_sealed_json(path / _DIGESTS)["files"] == _digests(path)
    except (OSError, ValueError, KeyError):
        return False


def _digests(path: Path) -> dict[str, str]:
    return {file: file_digest(path / file) for file in _files(path)}


def _files(path: Path) -> list[str]:
    """The files of a state, relative to its folder; not that of the digests."""
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    return sorted(str(file) for file in files if str(file) != _DIGESTS)


def _shapes(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()}


def _require_same(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    for name in sorted(found.keys() | expected.keys(), key=lambda name: (len(name), name)):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{path}: array {name}: found {found.get(name)}, expected {expected.get(name)}; "
                f"delete {path.parent} to train from the beginning"
            )


def _epochs(folder: Path) -> list[int]:
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("epoch_*"))
    return sorted(int(match[1]) for match in matches if match)


def _finished(folder: Path) -> list[int]:
    """Those whose states are complete, as far as their digests' file says by being there."""
    return [each for each in _epochs(folder) if (folder / f"epoch_{each}" / _DIGESTS).exists()]
