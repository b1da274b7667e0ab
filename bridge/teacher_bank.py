"""Teacher vectors on disk, gathered per batch, handed to the student as score arrays."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from jaxtyping import Float, Int

from bridge.dlpack import to_jax
from prmkd_jax.common.errors import UserError
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables

_MANIFEST = "manifest.json"
_FILES = ("instances.npy", "items.npy")
SIDES = ("jax", "torch")
"""Where the teachers' vectors become scores, `--teacher_scores`."""


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
        folder: where to; made if missing.
        name: the teacher's name.
        scale: see `Vectors`.
        identity: what the vectors depend on (data, split, configuration); `read_vectors`
            compares it.
        instances: see `Vectors`.
        items: see `Vectors`.

    Raises:
        UserError: if a value is not finite, in float16 too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {"name": name, "scale": scale, "identity": dict(identity)}
    manifest["files"] = {}
    for file, array in zip(_FILES, (instances, items), strict=True):
        with np.errstate(over="ignore"):  # told below, with the file's name
            half = array.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(
                f"teacher {name}: {file}: found a value of {np.abs(array).max():g}, expected "
                "finite ones up to 65504, for float16: scale vectors down, score_scale up"
            )
        beside = folder / f"{file}.part"
        with beside.open("wb") as stream:
            np.save(stream, half)
        manifest["files"][file] = {
            "shape": list(half.shape),
            "dtype": str(half.dtype),
            "sha256": _sha256(beside),
        }
        os.replace(beside, folder / file)
    # The manifest comes last: vectors without one don't count as written.
    beside = folder / f"{_MANIFEST}.part"
    beside.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    os.replace(beside, folder / _MANIFEST)


def has_vectors(folder: Path) -> bool:
    """Whether complete vectors lie in a folder."""
    return (folder / _MANIFEST).is_file()


def read_vectors(folder: Path, identity: Mapping[str, Any]) -> Vectors:
    """Opens a teacher's vectors after checking what they are and that they are whole.

    Raises:
        UserError: naming the file or the field that differs, and what was expected.
    """
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text())
        instances, items = (_open(folder / file, manifest["files"][file]) for file in _FILES)
        vectors = Vectors(manifest["name"], float(manifest["scale"]), instances, items)
        found = manifest["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: unreadable ({error}); delete {folder} to encode anew") from error
    for field, expected in identity.items():
        if found.get(field) != expected:
            raise UserError(
                f"{path}: {field}: found {found.get(field)!r}, expected {expected!r}; "
                f"delete {folder} to encode anew"
            )
    return vectors


class TeacherBank:
    """The K teachers of a run, as the training loop's source of scores.

    With `side="jax"` the vectors cross the bridge once and every step scores its own columns
    from `tables`. With `side="torch"` PyTorch scores each batch and hands the array over. Both
    give the same logits (tested to 1e-6 of their size).

    Attributes:
        names: the teachers' names.
        default_weights: w_k, summing to 1.
        tables: the vectors on JAX's device; None under `side="torch"`.

    Args:
        vectors: one a teacher, all over the same instances and items.
        weights: default weights w_k; normalised here, equal shares where all are 0.
        side: `jax` or `torch`.

    Raises:
        ValueError: there is no such side.
    """

    def __init__(self, vectors: Sequence[Vectors], weights: Sequence[float], side: str):
        if side not in SIDES:
            raise ValueError(f"side: found {side!r}, expected one of {', '.join(SIDES)}")
        self.names = tuple(v.name for v in vectors)
        weights = weights if np.any(weights) else [1.0] * len(weights)
        self.default_weights = np.asarray(weights, dtype=float) / np.sum(weights)
        self._scales = [v.scale for v in vectors]
        self._instances = [_tensor(v.instances) for v in vectors]
        self._items = [_tensor(v.items) for v in vectors]
        self._available = torch.stack([x.any(dim=1) for x in self._instances], dim=1)
        self.tables = self._cross() if side == "jax" else None

    def for_batch(
        self, instance_ids: Int[np.ndarray, " B"], candidates: Int[np.ndarray, " C"]
    ) -> TeacherScores:
        """A batch's scores, made in PyTorch.

        Args:
            instance_ids: the instances whose prefixes the teachers have read.
            candidates: item ids.
        """
        rows = torch.from_numpy(instance_ids.astype(np.int64))
        columns = torch.from_numpy(candidates.astype(np.int64))
        scores = torch.empty((len(rows), len(self.names), len(columns)))
        teachers = zip(self._instances, self._items, self._scales, strict=True)
        for k, (instances, items, scale) in enumerate(teachers):
            user_vectors = instances[rows].float() * scale
            torch.matmul(user_vectors, items[columns].float().T, out=scores[:, k])
        crossed = TeacherScores(to_jax(scores).array, to_jax(self._available[rows]).array)
        return jax.device_put(crossed, jax.devices()[0])

    def _cross(self) -> TeacherTables:
        tables = TeacherTables(
            instances=tuple(to_jax(x).array for x in self._instances),
            items=tuple(to_jax(x).array for x in self._items),
            scales=to_jax(torch.tensor(self._scales)).array,
            available=to_jax(self._available).array,
        )
        # Explicit: where the student has a GPU, the tables move there, once.
        return jax.device_put(tables, jax.devices()[0])


def _tensor(array: np.ndarray) -> torch.Tensor:
    """An aligned tensor of the array's values: a memory map starts behind its header."""
    out = torch.empty(array.shape, dtype=torch.float16)
    out.numpy()[:] = array
    return out


def _open(path: Path, entry: Mapping[str, Any]) -> np.ndarray:
    digest = _sha256(path)
    if digest != entry["sha256"]:
        raise UserError(
            f"{path}: SHA-256: found {digest}, expected {entry['sha256']}; "
            f"delete {path.parent} to encode anew"
        )
    array = np.load(path, mmap_mode="r")
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise UserError(
            f"{path}: found {array.dtype} {list(array.shape)}, "
            f"expected {entry['dtype']} {entry['shape']}"
        )
    return array


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
