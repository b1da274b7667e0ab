"""How well rows that a map gives stand in for items' own rows."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from prmkd_jax.ops.arrays import Array

# Held-out items are judged by the answers to so many one-item histories, to so many places.
_MOST_JUDGES, JUDGED_K = 1024, 10


def judging_items(num_items: int) -> list[int]:
    """Rows of the items whose one-item histories judge, evenly spread over the table."""
    rows = np.linspace(0, num_items - 1, min(_MOST_JUDGES, num_items))
    return np.unique(rows.astype(int)).tolist()


def judge(
    table: Float[Array, "V D"], best: Callable[[Float[Array, "V D"]], Int[np.ndarray, "judges k"]]
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Whether other rows bring held-out items into the lists where their own rows do.

    Args:
        table: the items' own rows.
        best: item rows → the first places of each judging history.

    Returns:
        rows of held-out items, what stands in for them [held, D] →
        2 · common / (own + other) over the places that these items have in the lists.
    """
    true = best(table)

    def agreement(held: np.ndarray, predicted: np.ndarray) -> float:
        other = best(table.at[held].set(jnp.asarray(predicted, table.dtype)))
        return _shared_places(set(held.tolist()), true.tolist(), other.tolist())

    return agreement


def _shared_places(
    wanted: set[int], lists: Sequence[Sequence[int]], others: Sequence[Sequence[int]]
) -> float:
    """2 · common / (one + other) over the places that the wanted have in two lots of lists.

    >>> _shared_places({1, 2}, [[1, 5], [2, 1]], [[1, 2], [6, 7]])
    0.4
    """
    pairs = [
        (set(one) & wanted, set(other) & wanted) for one, other in zip(lists, others, strict=True)
    ]
    places = sum(len(one) + len(other) for one, other in pairs)
    return 2 * sum(len(one & other) for one, other in pairs) / places if places else 0.0
