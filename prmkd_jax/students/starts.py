"""Item tables that begin from vectors of the items: of their texts, or of teachers.

The table's directions are the vectors' principal components, all scaled by one number to a chosen
standard deviation (docs/students.md). The result is a plain table of the same size, trained like
any other.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from prmkd_jax.common.errors import UserError
from prmkd_jax.students.student import Params, flatten_params, unflatten_params


class ItemStart(NamedTuple):
    """What item tables begin from.

    Attributes:
        vectors: the items' vectors; rows of unknown items mean nothing.
        known: items that there is a vector of. The others keep the model's own start.
        deviation: standard deviation of the entries that are filled.
    """

    vectors: Float[np.ndarray, "V E"]
    known: Bool[np.ndarray, " V"]
    deviation: float


def principal_components(
    vectors: Float[np.ndarray, "items E"], width: int, deviation: float
) -> Float32[np.ndarray, "items d"]:
    """The first components of centred vectors, scaled by one number; d = min(width, rank).

    Computed in float64. Of the two signs of a direction the one is taken whose largest entry is
    positive, so that the result doesn't hang on the linear algebra library's choice.

    Args:
        vectors: the items' vectors.
        width: components wanted.
        deviation: standard deviation of all entries of the result.

    Raises:
        UserError: all vectors are the same, so that they have no direction.
    """
    centred = vectors.astype(np.float64)
    centred -= centred.mean(axis=0)
    # E × E, whatever the number of items; eigenvalues come in ascending order.
    variances, directions = np.linalg.eigh(centred.T @ centred)
    # Fewer items than components leave directions in which nothing differs.
    rank = int((variances > variances[-1:] * len(variances) * np.finfo(np.float64).eps).sum())
    directions = directions[:, ::-1][:, : min(width, rank)]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    projected = centred @ directions
    spread = projected.std() if rank else 0.0
    # Equal vectors differ by rounding alone.
    if spread <= 1e-7 * np.abs(vectors).max(initial=0.0):
        raise no_directions(len(vectors))
    return (projected * (deviation / spread)).astype(np.float32)


def no_directions(num_items: int) -> UserError:
    """The mistake of vectors that are all the same."""
    return UserError(
        f"--item_init: found the same vector for all {num_items} items, expected vectors that tell "
        "items apart, or random"
    )


def side_by_side(several: Sequence[Float[np.ndarray, "V _"]]) -> Float64[np.ndarray, "V E"]:
    """Several models' vectors of the same items as one, each model with the same variance.

    Centred first: the item table takes directions in which items differ. `stages.new_rows` scales
    by the mean square instead, and leaves the centring to the map that it fits.
    """
    parts = []
    for vectors in several:
        centred = vectors.astype(np.float64)
        centred -= centred.mean(axis=0)
        variance = np.square(centred).sum(axis=1).mean()
        parts.append(centred / np.sqrt(variance) if variance else centred)
    return np.concatenate(parts, axis=1)


def begin_item_tables(params: Params, tables: Sequence[str], start: ItemStart) -> Params:
    """Parameters whose item tables begin from given vectors.

    Columns past the vectors' width, and rows of unknown items, keep what they hold.

    Args:
        params: a fresh student's.
        tables: names of its item tables, `About.item_tables`.
        start: the vectors.

    Raises:
        ValueError: a table is missing, or has another number of rows.
        UserError: see `principal_components`.
    """
    weights = flatten_params(params)
    for name in tables:
        if name not in weights or len(weights[name]) != len(start.known):
            raise ValueError(f"{name}: expected a table of {len(start.known)} rows")
        table = weights[name].copy()
        filled = principal_components(start.vectors[start.known], table.shape[1], start.deviation)
        table[np.ix_(start.known, np.arange(filled.shape[1]))] = filled
        weights[name] = table
    return unflatten_params(weights, params)
