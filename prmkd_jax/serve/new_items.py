"""Rows for items that a student was never trained on: a linear map from what is known of them.

The map is fitted on the known items, from their vectors (a teacher's, or of their texts) to the
student's own rows. It is a ridge regression in closed form. A regression gives rows that are
shorter than those of known items, which then never come first, so what it says beyond the mean row
is lengthened: to the length of held-out items' own rows, times a gain. Strength and gain are those
with which items held out of the fit stand where the student itself puts them. Computed in float64.
"""

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.serve.exported import Exported
from prmkd_jax.students.facts import Field
from prmkd_jax.students.student import (
    abstract_params,
    flatten_params,
    larger_axes,
    unflatten_params,
)

STRENGTHS = tuple(10.0**power for power in range(-4, 3))
"""Tried strengths, in units of the vectors' mean variance times the number of items."""
GAINS = (0.5, 0.75, 1.0, 1.25)
"""Tried gains; at 1 the rows of items held out of the fit are as long as their own."""
HELD_OUT = 0.1
"""Share of the known items on which strength and gain are chosen."""
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
        inputs: the items' vectors.
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


class Map(NamedTuple):
    """How rows of new items are made of vectors.

    Attributes:
        strength: the penalty of the ridge regression, a value of `STRENGTHS`.
        gain: the factor by which mapped rows are lengthened, a value of `GAINS`.
        agreement: the agreement of the first ten places of held-out items by their own rows and by
            mapped ones: 2 · common / (own + mapped).
    """

    strength: float
    gain: float
    agreement: float


class RowMap:
    """Ridge regressions on the vectors of known items, lengthened as held-out items need it.

    Args:
        known: the known items' vectors; at least two rows.
        seed: decides which items are held out.
    """

    def __init__(self, known: Float[np.ndarray, "n d"], seed: int = 0):
        order = np.random.default_rng(seed).permutation(len(known))
        count = min(max(1, round(HELD_OUT * len(known))), len(known) - 1)
        self.held, self._fitted = order[:count], order[count:]
        self._vectors = known[self.held]
        self._part, self._all = Ridge(known[self._fitted]), Ridge(known)

    def held_rows(
        self, table: Float[np.ndarray, "n E"], strength: float, gain: float
    ) -> Float[np.ndarray, "held E"]:
        """The held-out items' rows by a fit on the others."""
        mean, beyond = self._beyond(table, strength)
        return mean + gain * self._longer(table, mean, beyond) * beyond

    def rows(
        self,
        table: Float[np.ndarray, "n E"],
        new: Float[np.ndarray, "m d"],
        strength: float,
        gain: float,
    ) -> Float[np.ndarray, "m E"]:
        """New items' rows of a table, by a fit on all known items."""
        fitted = self._all.fit(table, strength)
        factor = gain * self._longer(table, *self._beyond(table, strength))
        return fitted.outputs_mean + factor * (fitted(new) - fitted.outputs_mean)

    def _beyond(self, table: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
        fitted = self._part.fit(table[self._fitted], strength)
        return fitted.outputs_mean, fitted(self._vectors) - fitted.outputs_mean

    def _longer(self, table: np.ndarray, mean: np.ndarray, beyond: np.ndarray) -> float:
        """How much longer held-out items' own rows are, counted from the mean row."""
        if not len(self.held):
            return 1.0
        mapped = np.linalg.norm(beyond, axis=1).mean()
        own = np.linalg.norm(table[self.held] - mean, axis=1).mean()
        # Vectors that say nothing give the mean row.
        return float(own / mapped) if mapped > 1e-9 * own else 1.0


def choose_map(
    rows: RowMap,
    table: Float[np.ndarray, "n E"],
    agree: Callable[[Int[np.ndarray, " held"], Float[np.ndarray, "held E"]], float],
    strengths: Sequence[float] = STRENGTHS,
    gains: Sequence[float] = GAINS,
) -> Map:
    """The strength and gain with the highest agreement on held-out items.

    Of equal ones the largest strength, then the smallest gain: what changes least.

    Args:
        rows: the regressions.
        table: the known items' own rows.
        agree: how well rows stand for those of some items, 1 at best.
        strengths: the penalties to try.
        gains: the gains to try.
    """
    tried = [
        (agree(rows.held, rows.held_rows(table, strength, gain)), strength, -gain)
        for strength in strengths
        for gain in gains
    ]
    found, strength, gain = max(tried)
    return Map(strength, -gain, found)


def text_vectors(
    texts: Sequence[str], known: Sequence[str], width: int = _TEXT_WIDTH
) -> Float[np.ndarray, "n width"]:
    """Hashed words, weighted by how rare they are among known texts, of length 1.

    Args:
        texts: the items' texts, one for each.
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


def check_texts(
    exported: Exported, ids: Iterable[str], titles: Iterable[str] | None
) -> tuple[list[str], list[str] | None]:
    """Both as lists; refuses ids that are known, come twice or are none, and others' titles.

    Args:
        exported: the student.
        ids: the new items'.
        titles: the items' titles, or None.

    Raises:
        UserError: naming what was found and expected.
    """
    ids = _texts("ids", ids)
    titles = None if titles is None else _texts("titles", titles)
    if not ids:
        raise UserError("add_items: ids: found none, expected at least one")
    known = set(exported.item_ids)
    again = [item for item in ids if item in known]
    if again or len(set(ids)) < len(ids):
        found = again[0] if again else "one id twice"
        raise UserError(f"add_items: ids: found {found!r}, expected new ones, each once")
    if titles is not None and len(titles) != len(ids):
        raise UserError(f"add_items: titles: found {len(titles)}, expected {len(ids)}")
    return ids, titles


def _texts(name: str, texts: Iterable[str]) -> list[str]:
    found = texts if isinstance(texts, str) else list(texts)
    if isinstance(found, str) or not all(isinstance(one, str) for one in found):
        raise UserError(f"add_items: {name}: found {found!r}, expected a list of strings")
    return found


def check_vectors(
    exported: Exported, count: int, vectors: ArrayLike, known_vectors: ArrayLike
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "V d"]]:
    """Both as float64; refuses what would give rows to the wrong items, or rows not finite.

    Args:
        exported: the student.
        count: how many items are new.
        vectors: theirs.
        known_vectors: vectors of all items that the student knows.

    Raises:
        UserError: naming what was found and expected.
    """
    new, known = _numbers("vectors", vectors), _numbers("known_vectors", known_vectors)
    # The known first: the new ones are to be as wide.
    for name, array, rows in (
        ("known_vectors", known, len(exported.item_ids)),
        ("vectors", new, count),
    ):
        if array.ndim != 2 or len(array) != rows or array.shape[1] != known.shape[1]:
            raise UserError(
                f"add_items: {name}: found shape {array.shape}, expected {rows} rows as wide as "
                "those of the known items"
            )
        if not np.isfinite(array).all():
            raise UserError(f"add_items: {name}: found nan or infinity, expected finite numbers")
    return new, known


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"add_items: {name}: found no table of numbers ({first_line(error)}), expected a row "
            "an item"
        ) from None


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
        titles: the new items' titles, or None.
        rows_for: the new items' rows of a table, given the known ones'.
    """
    facts = exported.facts
    fields = {
        name: Field(field.names, _padded(field.words, len(ids), -1))
        for name, field in facts.item_fields.items()
    }
    larger = dataclasses.replace(facts, num_items=facts.num_items + len(ids), item_fields=fields)
    axes = larger_axes(exported.config, facts, larger)
    grown = {
        name: _with_rows_along(array, axes.get(name, ()), rows_for)
        for name, array in flatten_params(exported.params).items()
    }
    known_titles = exported.titles
    if titles is not None and known_titles is None:
        known_titles = ("",) * len(exported.item_ids)
    if known_titles is not None:
        known_titles = (*known_titles, *(titles or [""] * len(ids)))
    return dataclasses.replace(
        exported,
        facts=larger,
        params=unflatten_params(grown, abstract_params(exported.config, larger)),
        items=_with_rows(exported.items, rows_for),
        fold_in=None if exported.fold_in is None else _with_rows(exported.fold_in, rows_for),
        item_ids=(*exported.item_ids, *ids),
        titles=known_titles,
    )


def _with_rows_along(
    array: np.ndarray, axes: Iterable[int], rows_for: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Further rows along some axes, one axis after the other."""
    for axis in axes:
        moved = np.moveaxis(array, axis, 0)
        flat = _with_rows(moved.reshape(len(moved), -1), rows_for)
        array = np.moveaxis(flat.reshape(-1, *moved.shape[1:]), 0, axis)
    return array


def _with_rows(table: np.ndarray, rows_for: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.concatenate([table, rows_for(table).astype(table.dtype)])


def _padded(array: np.ndarray, rows: int, value: int) -> np.ndarray:
    return np.pad(array, ((0, rows), (0, 0)), constant_values=value)
