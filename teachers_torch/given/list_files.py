"""A user's own recommender, given as ranked lists: the best items of each instance."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int

from prmkd_jax.common.arrays import open_npy
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import LARGEST, SMALLEST
from prmkd_jax.common.reading import file_states, is_there, require_states
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import PrecomputedConfig
from teachers_torch.ranked_lists import RankedLists, SparseRows, lowest

OFFSETS, IDS, VALUES, REST = "offsets.npy", "ids.npy", "values.npy", "rest.npy"
FILES = (OFFSETS, IDS, VALUES, REST)
LISTS_AT_ONCE = 65536
# NumPy counts spans of time among the integers.
_KINDS = {"integers": "iu", "floats": "f"}


class ListTeacher:
    """Lists that were made elsewhere; nothing is tuned.

    Instance i's list is `ids` and `values` from `offsets[i]` to before `offsets[i + 1]`, with
    i the place of its target in the histories; an empty list says that it is unknown. `rest` is
    the score of what a list doesn't name: one number, one an instance, or without the file each
    list's lowest. A logit is `scale` times the score.
    """

    name = "precomputed"
    start = "given lists"
    num_parameters = 0  # of the model behind the lists nothing is known
    top: int | None = None  # it is a list already

    def __init__(self, config: PrecomputedConfig, dataset: Dataset):
        """Opens and checks the files.

        Raises:
            UserError: naming the file, what was found and what was expected.
        """
        if config.normalize:
            raise UserError(
                f"--precomputed_normalize: found True, expected False for ranked lists ({OFFSETS})"
            )
        folder = Path(config.folder)
        self._states = file_states(folder / name for name in FILES)
        self._lists = read_lists(
            folder, len(dataset.interactions.items), dataset.num_items, config.scale
        )
        self._scale = np.float32(config.scale)

    @property
    def table_bytes(self) -> int:
        """Nothing is held for an item."""
        return 0

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        """The logits of some items; nan in the rows of unknown instances.

        Raises:
            UserError: a file was changed since it was opened: as long as a student is trained it
                is read.
        """
        require_states(self._states)
        return self._scale * self._lists.score(instance_ids, items)


def read_lists(folder: Path, instances: int, num_items: int, scale: float = 1.0) -> RankedLists:
    """Maps the files of a folder into memory and checks them.

    Args:
        folder: the folder with the files.
        instances: lists that there must be.
        num_items: ids must be below.
        scale: the factor that the scores will be multiplied by; float32 must hold the products too.

    Raises:
        UserError: naming the file, what was found and what was expected.
    """
    offsets = _read(folder / OFFSETS, "integers", (instances + 1,))
    _check_offsets(folder / OFFSETS, offsets)
    ids = _read(folder / IDS, "integers", (int(offsets[-1]),))
    values = _read(folder / VALUES, "floats", (int(offsets[-1]),))
    rows = SparseRows(offsets.astype(np.int64), ids, values)
    _check_rows(folder, rows, num_items, scale)
    if not is_there(folder / REST):
        return RankedLists("precomputed", rows, lowest(rows))
    rest = _read(folder / REST, "floats", (), (instances,))
    if not np.isfinite(rest).all():
        raise UserError(f"{folder / REST}: found nan or inf, expected finite numbers")
    wrong = _beyond(rest, scale)
    if wrong.any():
        raise UserError(_too_large(folder / REST, float(rest[wrong].flat[0]), scale))
    return RankedLists("precomputed", rows, np.broadcast_to(rest, instances))


def _read(path: Path, words: str, *shapes: tuple[int, ...]) -> np.ndarray:
    """Maps one array and checks its type, a name of `_KINDS`, and its shape."""
    try:
        array: Any = open_npy(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected part of the ranked lists") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: found no .npy array, expected one of {words}") from error
    if array.dtype.kind not in _KINDS[words]:
        raise UserError(f"{path}: found dtype {array.dtype}, expected {words}")
    if array.shape not in shapes:
        expected = " or ".join(str(list(shape)) for shape in shapes)
        raise UserError(f"{path}: found shape {list(array.shape)}, expected {expected}")
    return array


def _check_offsets(path: Path, offsets: np.ndarray) -> None:
    """Raises a UserError unless they begin at 0 and never fall."""
    signed = offsets.astype(np.int64)
    if signed[0] != 0:
        raise UserError(f"{path}: found {signed[0]} at place 0, expected 0")
    falls = np.flatnonzero(np.diff(signed) < 0)
    if len(falls):
        at = int(falls[0]) + 1
        raise UserError(
            f"{path}: found {signed[at]} at place {at} after {signed[at - 1]}, expected none lower"
        )


def _beyond(values: np.ndarray, scale: float) -> Bool[np.ndarray, "..."]:
    """Which values float32 doesn't hold, by themselves or multiplied: infinite there, or 0."""
    sizes = np.abs(np.asarray(values, dtype=np.float64))
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.stack([sizes, sizes * scale])
    return np.asarray((sizes > 0) & ((scaled > LARGEST) | (scaled < SMALLEST)).any(axis=0))


def _too_large(place: object, value: float, scale: float) -> str:
    """What an error says of such a value."""
    return (
        f"{place}: found {value:g}, expected a number that float32 can hold, also times "
        f"--precomputed_scale={scale:g}"
    )


def _check_rows(folder: Path, rows: SparseRows, num_items: int, scale: float) -> None:
    """Raises a UserError unless ids are items, once a list, and float32 holds the values."""
    for first in range(0, len(rows.offsets) - 1, LISTS_AT_ONCE):
        offsets = rows.offsets[first : first + LISTS_AT_ONCE + 1]
        part = slice(int(offsets[0]), int(offsets[-1]))
        ids, values = rows.ids[part].astype(np.int64), rows.values[part]
        wrong = np.flatnonzero((ids < 0) | (ids >= num_items))
        if len(wrong):
            raise UserError(
                f"{folder / IDS}: entry {part.start + wrong[0]}: found item {ids[wrong[0]]}, "
                f"expected 0 to {num_items - 1}"
            )
        if not np.isfinite(values).all():
            entry = part.start + int(np.argmin(np.isfinite(values)))
            raise UserError(
                f"{folder / VALUES}: entry {entry}: found nan or inf, expected finite numbers"
            )
        wrong = np.flatnonzero(_beyond(values, scale))
        if len(wrong):
            place = f"{folder / VALUES}: entry {part.start + wrong[0]}"
            raise UserError(_too_large(place, float(values[wrong[0]]), scale))
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        keys = np.sort(owner * num_items + ids)
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            instance, item = divmod(int(keys[twice[0]]), num_items)
            raise UserError(
                f"{folder / IDS}: instance {first + instance}: found item {item} twice, expected "
                "it once"
            )
