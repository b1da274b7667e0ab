"""A user's own recommender, given as files: two arrays of vectors, or ranked lists."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from prmkd_jax.common.arrays import half_fault, open_npy
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest, files_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import is_there
from prmkd_jax.common.sealed import read_sealed_json
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.task import Task
from teachers_torch.config import PrecomputedConfig
from teachers_torch.given.list_files import IDS, OFFSETS, REST, VALUES, ListTeacher
from teachers_torch.given.untuned import Untuned
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import AnyTeacher, Log

INSTANCES, ITEMS = "instances.npy", "items.npy"
MADE_OF = "students.json"
"""What `teach` has made the files of: digests of `data`, `split` and `students`."""
MADE_FILES = "files"
"""Entry of `MADE_OF`: name → SHA-256 of each file that `teach` has written."""
ROWS_AT_ONCE = 65536


class PrecomputedTeacher:
    """Vectors that were computed elsewhere; nothing is tuned.

    `instances.npy` [interactions, d] has the instance's vector at the CSR offset of its
    target (rows of users' first items teach nothing, but are finite too), `items.npy`
    [items, d] the item's vector at its id. Its logit is `score_scale` · instance · item.
    """

    name = "precomputed"
    start = "given vectors"
    # Nothing is known of the model that made the arrays.
    num_parameters = 0

    def __init__(self, config: PrecomputedConfig, dataset: Dataset):
        """Opens and checks the arrays.

        Raises:
            UserError: naming the file, what was found and what was expected.
        """
        self.score_scale = config.scale
        self._paths = _path(config, INSTANCES), _path(config, ITEMS)
        self._normalize = config.normalize
        self._items = _read(config, ITEMS, dataset.num_items, None)
        width = self._items.shape[1]
        self._instances = _read(config, INSTANCES, len(dataset.interactions.items), width)

    @property
    def table_bytes(self) -> int:
        """Bytes of the item table in float32."""
        return self._items.size * 4

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """The rows of these instances."""
        return self._scaled(self._instances[instance_ids])

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """The rows of all items."""
        return self._scaled(self._items)

    def require_half(self) -> None:
        """Checks the vectors as they are stored in the end.

        Raises:
            UserError: float16 can't hold one, or all are zeros.
        """
        for path, array in ((self._paths[0], self._instances), (self._paths[1], self._items)):
            filled = False
            for start in range(0, len(array), ROWS_AT_ONCE):
                rows = self._scaled(array[start : start + ROWS_AT_ONCE])
                fault = half_fault(rows, start)
                if fault:
                    raise UserError(f"{path}: {fault}")
                filled = filled or bool(rows.any())
            if not filled:
                raise UserError(f"{path}: found zeros in all {len(array)} rows, expected vectors")

    def _scaled(self, rows: np.ndarray) -> Float32[np.ndarray, "rows width"]:
        with np.errstate(over="ignore"):  # told by `require_half`
            rows = np.asarray(rows, dtype=np.float32)
        if not self._normalize:
            return rows
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def has_lists(config: PrecomputedConfig) -> bool:
    """Whether the folder holds ranked lists.

    Raises:
        UserError: there is no folder, or it holds vectors as well.
    """
    lists, vectors = (is_there(_path(config, name)) for name in (OFFSETS, INSTANCES))
    if lists and vectors:
        raise UserError(
            f"{config.folder}: found both {OFFSETS} and {INSTANCES}, expected ranked lists or "
            "vectors"
        )
    return lists


def content_digest(config: PrecomputedConfig) -> str:
    """SHA-256 over the files.

    Raises:
        UserError: a file is missing.
    """
    if not has_lists(config):
        return files_digest(_existing(config, name) for name in (INSTANCES, ITEMS))
    rest = [REST] * is_there(_path(config, REST))
    return files_digest(_existing(config, name) for name in (OFFSETS, IDS, VALUES, *rest))


def _path(config: PrecomputedConfig, name: str) -> Path:
    if not config.folder:
        raise UserError(
            f"--precomputed_folder: found nothing, expected a folder with {INSTANCES} and {ITEMS}, "
            f"or with {OFFSETS}, {IDS} and {VALUES}"
        )
    return Path(config.folder) / name


def _existing(config: PrecomputedConfig, name: str) -> Path:
    path = _path(config, name)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the teacher's vectors")
    return path


def _require_own(config: PrecomputedConfig, task: Task) -> None:
    """Refuses students of another split, which may have trained on what this one holds out.

    Raises:
        UserError: naming the file, or what is damaged since `teach` wrote it.
    """
    path = _path(config, MADE_OF)
    if not is_there(path):
        return
    try:
        made_of = read_sealed_json(path)
        found = made_of["data"], made_of["split"]
        digests = dict(made_of.get(MADE_FILES, {}))
        if not all(isinstance(text, str) for pair in digests.items() for text in pair):
            raise TypeError(MADE_FILES)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged, expected what teach has written") from error
    expected = task.dataset.fingerprint, task.split_digest
    for what, one, other in zip(("data", "split"), found, expected, strict=True):
        if one != other:
            raise UserError(
                f"{path}: {what}: found {one}, expected {other}: the students must have been "
                "trained on this run's data and split"
            )
    for name, digest in digests.items():
        if file_digest(_existing(config, name)) != digest:
            raise UserError(
                f"{_path(config, name)}: found another content than {MADE_OF} names, expected the "
                "file that teach has written"
            )


def _read(config: PrecomputedConfig, name: str, rows: int, width: int | None) -> np.ndarray:
    """Maps one array into memory and checks shape, type and values."""
    path = _existing(config, name)
    try:
        array = open_npy(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: found no .npy array, expected one of floats") from error
    expected = f"[{rows}, {width or 'd'}]"
    if array.ndim != 2 or len(array) != rows or (width and array.shape[1] != width):
        raise UserError(f"{path}: found shape {list(array.shape)}, expected {expected}")
    if not array.shape[1]:
        raise UserError(f"{path}: found vectors of width 0, expected at least 1")
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{path}: found dtype {array.dtype}, expected floats")
    for start in range(0, rows, ROWS_AT_ONCE):
        finite = np.isfinite(array[start : start + ROWS_AT_ONCE]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise UserError(f"{path}: row {row}: found nan or inf, expected finite numbers")
    return array


class PrecomputedKind(Untuned):
    """The kind of `precomputed`; see `teachers_torch.teacher.Kind`."""

    name = "precomputed"
    label = "Precomputed"
    reads = (PrecomputedConfig,)

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Reads all files: shapes, types, finite values, which float16 can hold.

        Raises:
            UserError: naming file and row.
        """
        given = self.build(task, settings, cache, lambda event: None)
        if isinstance(given, PrecomputedTeacher):
            given.require_half()

    def gives_scores(self, settings: TeacherSettings) -> bool:
        """Whether the folder holds ranked lists."""
        return has_lists(settings.get(PrecomputedConfig))

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """Content of the files, wherever they are, and how a product becomes a logit."""
        config = settings.get(PrecomputedConfig)
        content = content_digest(config)
        return {"content": content, "scale": config.scale, "normalize": config.normalize}

    def build(self, task: Task, settings: TeacherSettings, cache: Cache, log: Log) -> AnyTeacher:
        """Opens and checks the files."""
        config = settings.get(PrecomputedConfig)
        _require_own(config, task)
        given = ListTeacher if has_lists(config) else PrecomputedTeacher
        return given(config, task.dataset)


KIND = PrecomputedKind()
