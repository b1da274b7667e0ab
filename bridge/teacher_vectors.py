"""What teachers know on disk: vectors or ranked lists, and a manifest with their digests."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from prmkd_jax.common.arrays import half_fault
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import file_digest, writing
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from teachers_torch.ranked_lists import RankedLists, SparseRows

_MANIFEST = "manifest.json"
_VECTORS = ("instances.npy", "items.npy")
_LISTS = ("offsets.npy", "ids.npy", "values.npy", "rest.npy")


@dataclasses.dataclass(frozen=True)
class Vectors:
    """One teacher's vectors, memory-mapped.

    Attributes:
        name: the teacher's name.
        scale: its training logit is scale × (instance vector · item vector).
        instances: row = instance id (CSR offset of the target); zeros where the teacher doesn't
            know the instance.
        items: row = item id.
    """

    name: str
    scale: float
    instances: Float[np.ndarray, "N d"]
    items: Float[np.ndarray, "V d"]


def write_vectors(
    folder: Path,
    *,
    name: str,
    scale: float,
    identity: Mapping[str, Any],
    instances: Float[np.ndarray, "N d"],
    items: Float[np.ndarray, "V d"],
) -> None:
    """Stores a teacher's vectors as float16 with a manifest; complete or not at all.

    Args:
        folder: output folder, made if missing.
        name: the teacher's name.
        scale: see `Vectors`.
        identity: all that the vectors depend on (data, split, configuration); `read_vectors`
            compares it.
        instances: see `Vectors`.
        items: see `Vectors`.

    Raises:
        UserError: if a value is not finite, in float16 too, a row vanishes there, or all are 0.
    """
    halves = {
        file: _half(array, f"teacher {name}: {file}")
        for file, array in zip(_VECTORS, (instances, items), strict=True)
    }
    _write(folder, {"name": name, "scale": scale, "identity": dict(identity)}, halves)


def write_lists(folder: Path, lists: RankedLists, identity: Mapping[str, Any]) -> None:
    """Stores a teacher's ranked lists with a manifest; complete or not at all.

    Args:
        folder: output folder, made if missing.
        lists: the lists.
        identity: as in `write_vectors`.

    Raises:
        UserError: if a value is not finite, or all lists are empty.
    """
    rows = lists.rows
    if not len(rows.ids):
        raise UserError(
            f"teacher {lists.name}: found no instance that it knows, expected one at least"
        )
    if not (np.isfinite(rows.values).all() and np.isfinite(lists.rest).all()):
        raise UserError(
            f"teacher {lists.name}: found nan or inf in its lists, expected finite numbers"
        )
    arrays = (rows.offsets, rows.ids, rows.values, lists.rest)
    manifest = {"name": lists.name, "identity": dict(identity)}
    _write(folder, manifest, dict(zip(_LISTS, arrays, strict=True)))


def _write(folder: Path, manifest: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """The arrays, then the manifest: a folder without one doesn't count as written."""
    manifest["files"] = {}
    for file, array in arrays.items():
        with writing(folder / file) as partial:
            with partial.open("wb") as stream:
                np.save(stream, array)
            digest = file_digest(partial)
        manifest["files"][file] = {
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "sha256": digest,
        }
    write_sealed_json(folder / _MANIFEST, manifest)


def _half(array: Float[np.ndarray, "rows d"], source: str) -> Float16[np.ndarray, "rows d"]:
    """The vectors as float16.

    Raises:
        UserError: as `write_vectors`.
    """
    fault = half_fault(array)
    if fault:
        raise UserError(f"{source}: {fault}")
    half = array.astype(np.float16)
    if not half.any():
        raise UserError(f"{source}: found zeros in all {len(half)} rows, expected vectors")
    return half


def has_vectors(folder: Path) -> bool:
    """Whether a folder holds complete vectors, or complete lists."""
    return (folder / _MANIFEST).is_file()


def read_vectors(folder: Path, identity: Mapping[str, Any]) -> Vectors | RankedLists:
    """Opens a teacher's vectors or lists after checking their identity and their digests.

    Raises:
        UserError: naming the file or the field that differs, and what was expected.
    """
    path = folder / _MANIFEST
    try:
        manifest = read_sealed_json(path)
        name, files = manifest["name"], manifest["files"]
        if set(files) == set(_LISTS):
            offsets, ids, values, rest = (_open(folder / file, files[file]) for file in _LISTS)
            stored = RankedLists(name, SparseRows(offsets, ids, values), rest)
        else:
            instances, items = (_open(folder / file, files[file]) for file in _VECTORS)
            stored = Vectors(name, float(manifest["scale"]), instances, items)
        found = manifest["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: unreadable ({error}); delete {folder} to encode again") from error
    for field, expected in identity.items():
        if found.get(field) != expected:
            raise UserError(
                f"{path}: {field}: found {found.get(field)!r}, expected {expected!r}; "
                f"delete {folder} to encode again"
            )
    return stored


def _open(path: Path, entry: Mapping[str, Any]) -> np.ndarray:
    digest = file_digest(path)
    if digest != entry["sha256"]:
        raise UserError(
            f"{path}: SHA-256: found {digest}, expected {entry['sha256']}; "
            f"delete {path.parent} to encode again"
        )
    array = np.load(path, mmap_mode="r")
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise UserError(
            f"{path}: found {array.dtype} {list(array.shape)}, "
            f"expected {entry['dtype']} {entry['shape']}"
        )
    return array
