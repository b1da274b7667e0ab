"""How the teachers and the plain student would have ranked what was recommended.

`explain.json`         which teachers there are, how true their estimates are, digests
`explain.safetensors`  each teacher's item vectors (float16) and a map (float32)
`plain/`               the plain student, exported

A teacher is not there when the student serves: its vector of a history is estimated from its own
vectors of the history's items. The estimate is linear in the mean of these vectors and in the
newest one, fitted on histories that the teacher has read, and the share of the teacher's own first
ten places that it finds again on other histories is written next to it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from jaxtyping import Float, Float16, Float32, Int
from safetensors import SafetensorError

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import is_there, unchanged
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.serve.contents import require_views
from prmkd_jax.serve.new_items import Ridge

CARD, ARRAYS, PLAIN = "explain.json", "explain.safetensors", "plain"
PLAIN_NAME = "plain"
"""How the plain student is called among the ranks."""
FORMAT = 1
# Histories that a map is fitted on, and judged on.
MOST_FITTED, MOST_JUDGED = 20_000, 2_000
_STRENGTH, _JUDGED_K = 1e-3, 10
# Items whose vectors are widened at once.
_BLOCK = 65_536


class TeacherView(NamedTuple):
    """What serving knows of one teacher.

    Attributes:
        name: the teacher's name in `--teachers`.
        label: display name.
        items: the teacher's item vectors.
        weights: the linear map from [mean of the history's vectors, the newest one, 1] to a user
            vector.
        fidelity: mean share of its own first ten places that the estimate finds again; None
            where it wasn't measured.
    """

    name: str
    label: str
    items: Float16[np.ndarray, "V d"]
    weights: Float32[np.ndarray, "pair_plus_1 d"]
    fidelity: float | None

    def queries(self, histories: Sequence[Sequence[int]]) -> Float[np.ndarray, "B d"]:
        """Estimated vectors of histories, given as rows of items; zero where one is empty."""
        return features(self.items, histories) @ self.weights

    def ranks(
        self, history: Sequence[int], wanted: Sequence[int], filter_seen: bool
    ) -> list[float | None]:
        """0-based ranks of items for a history, both as rows; None for an item added later.

        Args:
            history: the history's items as rows; those that were added later are skipped.
            wanted: the items asked about.
            filter_seen: count no item of the history as a rival.
        """
        read = self._known(history)
        if not read:
            return [None] * len(wanted)
        scores = self._scores(read)
        rivals = np.ones(len(scores), bool)
        rivals[read if filter_seen else []] = False
        others = scores[rivals]

        def rank(row: int) -> float:
            ties = (others == scores[row]).sum() - rivals[row]
            return float((others > scores[row]).sum() + 0.5 * ties)

        return [rank(row) if row < len(scores) else None for row in wanted]

    def best(self, history: Sequence[int], k: int, filter_seen: bool) -> list[tuple[int, float]]:
        """The rows that it would put first, with its estimated scores; of equals the first row.

        Args:
            history: the history's items as rows, as for `ranks`; where none of them is known
                nothing is recommended.
            k: how many, at most.
            filter_seen: leave out the items of the history.
        """
        read = self._known(history)
        if not read:
            return []
        scores = self._scores(read)
        if filter_seen:
            scores[read] = -np.inf
        rows = np.argsort(-scores, kind="stable")[:k]
        return [(int(row), float(scores[row])) for row in rows if scores[row] > -np.inf]

    def _known(self, history: Sequence[int]) -> list[int]:
        """Without items that were added later."""
        return [row for row in history if row < len(self.items)]

    def _scores(self, history: Sequence[int]) -> Float32[np.ndarray, " V"]:
        """Estimated scores of all items; float32 copies are made of a block at a time."""
        query = self.queries([history])[0].astype(np.float32)
        blocks = range(0, len(self.items), _BLOCK)
        parts = [self.items[n : n + _BLOCK].astype(np.float32) @ query for n in blocks]
        return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is read back from an artefact.

    Attributes:
        teachers: the teachers' views, one for each.
        plain: folder of the plain student; None where it wasn't exported.
    """

    teachers: tuple[TeacherView, ...]
    plain: Path | None


def features(
    items: Float16[np.ndarray, "V d"], histories: Sequence[Sequence[int]]
) -> Float32[np.ndarray, "B pair_plus_1"]:
    """[mean of the vectors of a history's items, the newest one, 1]; zeros for an empty one."""
    width = items.shape[1]
    out = np.zeros((len(histories), 2 * width + 1), np.float32)
    for row, history in zip(out, histories, strict=True):
        if len(history):
            vectors = items[np.asarray(history)].astype(np.float32)
            row[:width], row[width:-1], row[-1] = vectors.mean(0), vectors[-1], 1
    return out


def view_teacher(
    name: str,
    label: str,
    items: Float[np.ndarray, "V d"],
    instances: Float[np.ndarray, "n d"],
    histories: Sequence[Sequence[int]],
    others: tuple[Float[np.ndarray, "m d"], Sequence[Sequence[int]]],
) -> TeacherView:
    """Fits a teacher's map and measures it.

    Args:
        name: the teacher's name in `--teachers`.
        label: display name.
        items: the teacher's item vectors.
        instances: the teacher's vectors of the histories to fit on.
        histories: these, as rows of items.
        others: vectors and histories to measure on.
    """
    half = np.asarray(items, np.float16)
    known = features(half, histories)[:, :-1].astype(np.float64)
    fitted = Ridge(known).fit(np.asarray(instances, np.float64), _STRENGTH)
    constant = fitted.outputs_mean - fitted.inputs_mean @ fitted.weights
    weights = np.vstack([fitted.weights, constant]).astype(np.float32)
    view = TeacherView(name, label, half, weights, None)
    own, read = others
    if not len(read):
        return view
    table = half.astype(np.float32)
    best = [_best(queries, table) for queries in (np.asarray(own, np.float32), view.queries(read))]
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(*best, strict=True)]
    return view._replace(fidelity=float(np.mean(shares)))


def write_explanation(folder: Path, views: Sequence[TeacherView]) -> None:
    """Writes the teachers' part into a folder.

    Args:
        folder: the artefact's folder, which is being written.
        views: the teachers.
    """
    arrays: dict[str, np.ndarray] = {}
    for view in views:
        arrays |= {f"{view.name}.items": view.items, f"{view.name}.weights": view.weights}
    (folder / ARRAYS).write_bytes(safetensors.numpy.save(arrays))
    told = [{"name": v.name, "label": v.label, "fidelity": v.fidelity} for v in views]
    content = {"format": FORMAT, "teachers": told, "sha256": file_digest(folder / ARRAYS)}
    write_sealed_json(folder / CARD, content)


def read_explanation(folder: Path, num_items: int) -> Explanation | None:
    """What an artefact's folder holds; None where it explains nothing.

    Args:
        folder: the artefact's folder.
        num_items: the student's.

    Raises:
        UserError: it is damaged, replaced meanwhile, of another format, or of another number of
            items.
    """
    # It is opened later: a link to the artefact may have been moved by then.
    plain = (folder / PLAIN).resolve() if (folder / PLAIN).is_dir() else None
    path = folder / CARD
    if not is_there(path):
        return None if plain is None else Explanation((), plain)
    try:
        with unchanged(folder, (CARD, ARRAYS)):
            content: Mapping[str, Any] = read_sealed_json(path)
            if content["format"] != FORMAT:
                raise UserError(f"{path}: format: found {content['format']}, expected {FORMAT}")
            if file_digest(folder / ARRAYS) != content["sha256"]:
                raise UserError(f"{folder / ARRAYS}: damaged: its SHA-256 is not the one in {CARD}")
            arrays = safetensors.numpy.load_file(folder / ARRAYS)
        require_views(path, content.get("teachers"))
        views = tuple(
            TeacherView(
                each["name"],
                each["label"],
                arrays[f"{each['name']}.items"],
                arrays[f"{each['name']}.weights"],
                each["fidelity"],
            )
            for each in content["teachers"]
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({first_line(error)})") from error
    for view in views:
        _require_fit(folder / ARRAYS, view, num_items)
    return Explanation(views, plain)


def _require_fit(path: Path, view: TeacherView, num_items: int) -> None:
    """Refuses arrays that don't belong to the student's items or to each other."""
    items, weights = view.items, view.weights
    right = items.ndim == 2 and len(items) == num_items
    right = right and weights.shape == (2 * items.shape[1] + 1, items.shape[1])
    if not (right and items.dtype == np.float16 and weights.dtype == np.float32):
        raise UserError(
            f"{path}: {view.name}: found items {items.dtype}{items.shape} and weights "
            f"{weights.dtype}{weights.shape}, expected float16 items of {num_items} rows and "
            "float32 weights of twice their width and one"
        )
    if not (np.isfinite(items).all() and np.isfinite(weights).all()):
        raise UserError(f"{path}: {view.name}: found nan or infinity, expected finite numbers")


def _best(
    queries: Float32[np.ndarray, "n d"], table: Float32[np.ndarray, "V d"]
) -> Int[np.ndarray, "n k"]:
    """The first places of each row, in any order."""
    k = min(_JUDGED_K, len(table))
    return np.argpartition(-(queries @ table.T), k - 1, axis=1)[:, :k]
