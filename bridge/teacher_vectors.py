"""What teachers know on disk: vectors or ranked lists, and a manifest with their digests."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Float16

from prmkd_jax.common.arrays import half_fault
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.common.parts import PartFiles
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from teachers_torch.ranked_lists import RankedLists, SparseRows
from teachers_torch.scale import check_scale

_MANIFEST = "manifest.json"
_VECTORS = ("instances.npy", "items.npy")
_LISTS = ("offsets.npy", "ids.npy", "values.npy", "rest.npy")
_BLOCK = 65_536  # rows converted at once


@dataclasses.dataclass(frozen=True)
class Vectors:
    """One teacher's vectors, memory-mapped.

    Attributes:
        name: the teacher's name.
        scale: the factor s of the teacher's training logit, s × (instance vector · item vector);
            above 0, so that the product alone ranks as the logit does.
        instances: row = instance id (CSR offset of the target); zeros where the teacher doesn't
            know the instance.
        items: row = item id.
    """

    name: str
    scale: float
    instances: Float[np.ndarray, "N d"]
    items: Float[np.ndarray, "V d"]

    def __post_init__(self):
        """Raises a UserError for a scale that isn't above 0."""
        check_scale(self.scale, f"teacher {self.name}: scale")


def write_vectors(
    folder: Path,
    *,
    name: str,
    scale: float,
    identity: Mapping[str, object],
    instances: Float[np.ndarray, "N d"] | PartFiles,
    items: Float[np.ndarray, "V d"],
) -> None:
    """Stores a teacher's vectors as float16 with a manifest; complete or not at all.

    Blocks of rows are converted and written one after another, so that a mapped file or parts are
    never in memory as a whole.

    Args:
        folder: output folder, made if missing.
        name: the teacher's name.
        scale: see `Vectors`.
        identity: all that the vectors depend on (data, split, configuration); `read_vectors`
            compares it.
        instances: see `Vectors`; an array, or the rows in parts.
        items: see `Vectors`.

    Raises:
        UserError: if a value is not finite, in float16 too, a row vanishes there, or all are 0;
            or the scale isn't above 0.
    """
    check_scale(scale, f"teacher {name}: scale")
    sources: dict[str, np.ndarray | PartFiles] = dict(
        zip(_VECTORS, (instances, items), strict=True)
    )
    # What can't be stored is found before a file of the folder is replaced.
    for file, rows in sources.items():
        nonzero = [block.any() for block in _halves(rows, f"teacher {name}: {file}")]
        if not any(nonzero):
            raise UserError(
                f"teacher {name}: {file}: found zeros in all {_length(rows)} rows, expected vectors"
            )
    manifest = {"name": name, "scale": scale, "identity": dict(identity)}
    _write(folder, manifest, sources)


def write_lists(folder: Path, lists: RankedLists, identity: Mapping[str, object]) -> None:
    """Stores a teacher's ranked lists with a manifest; complete or not at all.

    Args:
        folder: output folder, made if missing.
        lists: the lists.
        identity: all that the scores depend on, as in `write_vectors`.

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


def _write(
    folder: Path, manifest: dict[str, object], sources: Mapping[str, np.ndarray | PartFiles]
) -> None:
    """The arrays, vectors as float16, then the manifest: without one a folder doesn't count."""
    manifest["files"] = {}
    for file, rows in sources.items():
        with writing(folder / file) as partial:
            with partial.open("wb") as stream:
                if file in _VECTORS:
                    shape, dtype = _save_halves(stream, rows, f"{folder / file}")
                else:
                    assert isinstance(rows, np.ndarray)
                    np.save(stream, rows)
                    shape, dtype = rows.shape, rows.dtype
            digest = file_digest(partial)
        manifest["files"][file] = {"shape": list(shape), "dtype": str(dtype), "sha256": digest}
    write_sealed_json(folder / _MANIFEST, manifest)


def _save_halves(
    stream: BinaryIO, rows: np.ndarray | PartFiles, source: str
) -> tuple[tuple[int, ...], np.dtype]:
    """What `np.save` writes of the complete float16 array; returns its shape and dtype."""
    shape = None
    dtype = np.dtype(np.float16)
    for block in _halves(rows, source):
        if shape is None:
            shape = (_length(rows), block.shape[1])
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
        stream.write(block.tobytes())
    assert shape is not None
    return shape, dtype


def _halves(rows: np.ndarray | PartFiles, source: str) -> Iterator[Float16[np.ndarray, "rows d"]]:
    """The vectors as float16, in blocks.

    Raises:
        UserError: as `write_vectors`, but for zeros.
    """
    first = 0
    for block in rows if isinstance(rows, PartFiles) else _blocks(rows):
        fault = half_fault(block, first)
        if fault:
            raise UserError(f"{source}: {fault}")
        first += len(block)
        yield np.ascontiguousarray(block, np.float16)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    # An empty array has one block, of which nothing is said but its zeros.
    return (array[start : start + _BLOCK] for start in range(0, max(len(array), 1), _BLOCK))


def _length(rows: np.ndarray | PartFiles) -> int:
    return rows.rows if isinstance(rows, PartFiles) else len(rows)


def has_vectors(folder: Path) -> bool:
    """Whether a folder holds complete vectors, or complete lists."""
    return (folder / _MANIFEST).is_file()


def read_vectors(folder: Path, identity: Mapping[str, object]) -> Vectors | RankedLists:
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
            scale = check_scale(float(manifest["scale"]), f"{path}: scale")
            stored = Vectors(name, scale, instances, items)
        found = dict(manifest["identity"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: unreadable ({error}); delete {folder} to encode again") from error
    for field, expected in identity.items():
        if found.get(field) != expected:
            raise UserError(
                f"{path}: {field}: found {found.get(field)!r}, expected {expected!r}; "
                f"delete {folder} to encode again"
            )
    return stored


def _open(path: Path, entry: Mapping[str, object]) -> np.ndarray:
    digest = file_digest(path)
    if digest != entry["sha256"]:
        raise UserError(
            f"{path}: SHA-256: found {digest}, expected {entry['sha256']}; "
            f"delete {path.parent} to encode again"
        )
    # Copy on write: nobody writes to it, but PyTorch and JAX share only what they could write to.
    array = np.load(path, mmap_mode="c")
    if list(array.shape) != entry["shape"] or str(array.dtype) != entry["dtype"]:
        raise UserError(
            f"{path}: found {array.dtype} {list(array.shape)}, "
            f"expected {entry['dtype']} {entry['shape']}"
        )
    return array
