"""Teacher vectors on disk: two float16 arrays and a manifest with their digests."""

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

_MANIFEST = "manifest.json"
_FILES = ("instances.npy", "items.npy")


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
    manifest: dict[str, Any] = {"name": name, "scale": scale, "identity": dict(identity)}
    manifest["files"] = {}
    for file, array in zip(_FILES, (instances, items), strict=True):
        half = _half(array, f"teacher {name}: {file}")
        with writing(folder / file) as partial:
            with partial.open("wb") as stream:
                np.save(stream, half)
            digest = file_digest(partial)
        manifest["files"][file] = {
            "shape": list(half.shape),
            "dtype": str(half.dtype),
            "sha256": digest,
        }
    # The manifest comes last: vectors without one don't count as written.
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
    """Whether a folder holds complete vectors."""
    return (folder / _MANIFEST).is_file()


def read_vectors(folder: Path, identity: Mapping[str, Any]) -> Vectors:
    """Opens a teacher's vectors after checking their identity and their digests.

    Raises:
        UserError: naming the file or the field that differs, and what was expected.
    """
    path = folder / _MANIFEST
    try:
        manifest = read_sealed_json(path)
        instances, items = (_open(folder / file, manifest["files"][file]) for file in _FILES)
        vectors = Vectors(manifest["name"], float(manifest["scale"]), instances, items)
        found = manifest["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: unreadable ({error}); delete {folder} to encode again") from error
    for field, expected in identity.items():
        if found.get(field) != expected:
            raise UserError(
                f"{path}: {field}: found {found.get(field)!r}, expected {expected!r}; "
                f"delete {folder} to encode again"
            )
    return vectors


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
