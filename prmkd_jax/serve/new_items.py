"""Rows for items that a student was never trained on: a linear map from what is known of them.

The map is fitted on the known items, from their vectors (a teacher's, or of their texts) to the
student's own rows. It is a ridge regression in closed form; its strength is the one that, on items
held out of the fit, finds most of what the student itself would recommend of them. Computed in
float64.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.exported import Exported
from prmkd_jax.students.facts import Field
from prmkd_jax.students.student import (
    abstract_params,
    flatten_params,
    param_shapes,
    unflatten_params,
)

STRENGTHS = tuple(10.0**power for power in range(-4, 4))
"""Tried strengths, in units of the vectors' mean variance times the number of items."""
HELD_OUT = 0.1
"""Share of the known items on which the strength is chosen."""
_TEXT_WIDTH = 1024


class LinearMap(NamedTuple):
    """y ≈ (x − x̄) W + ȳ.

    Attributes:
        weights: W.
        inputs_mean: x̄.
        outputs_mean: ȳ.
    """

    weights: Float[np.ndarray, "d E"]
    inputs_mean: Float[np.ndarray, " d"]
    outputs_mean: Float[np.ndarray, " E"]

    def __call__(self, inputs: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n E"]:
        """The rows of these vectors."""
        return (inputs - self.inputs_mean) @ self.weights + self.outputs_mean


class Ridge:
    """Ridge regressions on the same inputs: the eigenvectors are computed once.

    Args:
        inputs: one vector an item.
    """

    def __init__(self, inputs: Float[np.ndarray, "n d"]):
        self._mean = inputs.mean(0)
        self._centred = inputs - self._mean
        values, self._vectors = np.linalg.eigh(self._centred.T @ self._centred)
        self._values = np.maximum(values, 0.0)
        # Where all vectors are equal nothing is learnt, and nothing divided by zero.
        self._unit = self._values.mean() or 1.0

    def fit(self, outputs: Float[np.ndarray, "n E"], strength: float) -> LinearMap:
        """Minimises Σ ‖y − ȳ − (x − x̄) W‖² + λ ‖W‖², λ = strength · tr(XᵀX) / d.

        Args:
            outputs: the rows to reach.
            strength: above 0.
        """
        mean = outputs.mean(0)
        products = self._vectors.T @ (self._centred.T @ (outputs - mean))
        scaled = products / (self._values + strength * self._unit)[:, None]
        return LinearMap(self._vectors @ scaled, self._mean, mean)


def choose_strength(
    inputs: Float[np.ndarray, "n d"],
    outputs: Float[np.ndarray, "n E"],
    recall: Callable[[Int[np.ndarray, " held"], Float[np.ndarray, "held E"]], float],
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> tuple[float, float]:
    """The strength with the highest recall on held-out items; of equal ones the largest.

    Args:
        inputs: one vector a known item.
        outputs: their rows.
        recall: how well rows stand for those of some items.
        strengths: the values that are tried.
        seed: decides which items are held out.

    Returns:
        the strength, and its recall.
    """
    order = np.random.default_rng(seed).permutation(len(inputs))
    count = min(max(1, round(HELD_OUT * len(inputs))), len(inputs) - 1)
    held, known = order[:count], order[count:]
    ridge = Ridge(inputs[known])
    tried = [
        (recall(held, ridge.fit(outputs[known], strength)(inputs[held])), strength)
        for strength in strengths
    ]
    found, strength = max(tried)
    return strength, found


def text_vectors(
    texts: Sequence[str], known: Sequence[str], width: int = _TEXT_WIDTH
) -> Float[np.ndarray, "n width"]:
    """Hashed words, weighted by how rare they are among known texts, of length 1.

    Args:
        texts: one text an item.
        known: texts that decide a word's weight: log((1 + n) / (1 + texts that hold it)) + 1.
        width: width of the vectors; words that share a place are taken for one.
    """
    counts = np.zeros(width)
    for text in known:
        counts[list(_places(text, width))] += 1
    weights = np.log((1 + len(known)) / (1 + counts)) + 1
    out = np.zeros((len(texts), width))
    for row, text in zip(out, texts, strict=True):
        places = list(_places(text, width))
        row[places] = weights[places]
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def _places(text: str, width: int) -> set[int]:
    return {zlib.crc32(word.encode()) % width for word in re.findall(r"\w+", text.casefold())}


def check_new(
    exported: Exported,
    ids: Sequence[str],
    vectors: np.ndarray,
    known_vectors: np.ndarray,
    titles: Sequence[str] | None,
) -> None:
    """Refuses what would give rows to the wrong items, or rows that aren't finite.

    Raises:
        UserError: naming what was found and expected.
    """
    known = set(exported.item_ids)
    again = [item for item in ids if item in known]
    if again or len(set(ids)) < len(ids):
        found = again[0] if again else "one id twice"
        raise UserError(f"add_items: ids: found {found!r}, expected new ones, each once")
    for name, array, rows in (
        ("vectors", vectors, len(ids)),
        ("known_vectors", known_vectors, len(exported.item_ids)),
    ):
        if array.ndim != 2 or len(array) != rows or array.shape[1] != known_vectors.shape[-1]:
            raise UserError(
                f"add_items: {name}: found shape {array.shape}, expected {rows} rows as wide as "
                "those of the known items"
            )
        if not np.isfinite(array).all():
            raise UserError(f"add_items: {name}: found nan or infinity, expected finite numbers")
    if titles is not None and len(titles) != len(ids):
        raise UserError(f"add_items: titles: found {len(titles)}, expected {len(ids)}")


def extend(
    exported: Exported,
    ids: Sequence[str],
    titles: Sequence[str] | None,
    rows_for: Callable[[Float[np.ndarray, "V E"]], Float[np.ndarray, "n E"]],
) -> Exported:
    """The export with further items: in every table that has a row for each item.

    Args:
        exported: the student, which stays as it is.
        ids: the new items'.
        titles: their titles, or None.
        rows_for: the new items' rows of a table, given the known ones'.
    """
    facts = exported.facts
    fields = {
        name: Field(field.names, _padded(field.words, len(ids), -1))
        for name, field in facts.item_fields.items()
    }
    larger = dataclasses.replace(facts, num_items=facts.num_items + len(ids), item_fields=fields)
    like = abstract_params(exported.config, larger)
    weights = flatten_params(exported.params)
    grown = _grown(weights, param_shapes(like), rows_for)
    known_titles = exported.titles
    if titles is not None and known_titles is None:
        known_titles = ("",) * len(exported.item_ids)
    if known_titles is not None:
        known_titles = (*known_titles, *(titles or [""] * len(ids)))
    return dataclasses.replace(
        exported,
        facts=larger,
        params=unflatten_params(grown, like),
        items=_with_rows(exported.items, rows_for),
        fold_in=None if exported.fold_in is None else _with_rows(exported.fold_in, rows_for),
        item_ids=(*exported.item_ids, *ids),
        titles=known_titles,
    )


def _grown(
    weights: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    rows_for: Callable[[np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """The parameters; those whose shape depends on the number of items get further rows."""
    out = {}
    for name, array in weights.items():
        axes = [n for n, (a, b) in enumerate(zip(array.shape, shapes[name], strict=True)) if a != b]
        out[name] = array
        for axis in axes:
            moved = np.moveaxis(array, axis, 0)
            flat = _with_rows(moved.reshape(len(moved), -1), rows_for)
            out[name] = np.moveaxis(flat.reshape(-1, *moved.shape[1:]), 0, axis)
    return out


def _with_rows(table: np.ndarray, rows_for: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([table, rows_for(table).astype(table.dtype)])


def _padded(array: np.ndarray, rows: int, value: int) -> np.ndarray:
    return np.pad(array, ((0, rows), (0, 0)), constant_values=value)
