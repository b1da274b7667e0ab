"""What recommended lists are like, besides right or wrong: numpy alone.

A list holds a user's k best items, history not masked. Each figure is defined here once; docs/
records.md names them. They say nothing of quality: a random list covers everything.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Int
from scipy import sparse

HEAD = 0.2
"""Share of the catalogue, the most popular items, outside of which the tail begins."""
_WORD = re.compile(r"[^\W_]+")


def list_metrics(
    lists: Int[np.ndarray, "users k"],
    counts: Int[np.ndarray, " items"],
    words: sparse.csr_array | None,
) -> dict[str, float | None]:
    """Every figure of this module under its name.

    Args:
        lists: item ids, each list's distinct.
        counts: how often each item occurs in the training part.
        words: the items' words, see `word_vectors`; None where they have no texts.

    Raises:
        ValueError: there are no lists, or an id is no item.
    """
    if not lists.size:
        raise ValueError("no lists to measure")
    if lists.min() < 0 or lists.max() >= len(counts):
        raise ValueError(f"item {lists.min()} … {lists.max()}, expected 0 … {len(counts) - 1}")
    exposure = np.bincount(lists.reshape(-1), minlength=len(counts))
    return {
        "coverage": float(np.count_nonzero(exposure) / len(counts)),
        "gini": gini(exposure),
        "tail": float(exposure[tail(counts)].sum() / exposure.sum()),
        "novelty": float(surprise(counts)[lists].mean()),
        "diversity": None if words is None else diversity(lists, words),
    }


def gini(exposure: Int[np.ndarray, " items"]) -> float:
    """How unequally the places of all lists are divided among all items.

    0 where each item has as many, (items − 1) / items where one has all: half the mean absolute
    difference of two items' places, divided by the mean.

    >>> gini(np.array([3, 3, 3])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    ordered = np.sort(exposure).astype(np.float64)
    items = len(ordered)
    weights = 2 * np.arange(1, items + 1) - items - 1
    return float(weights @ ordered / (items * ordered.sum()))


def tail(counts: Int[np.ndarray, " items"]) -> np.ndarray:
    """Whether each item is outside of the most popular `HEAD` of the catalogue.

    Of items with equal counts the earlier ones are taken for more popular.

    >>> tail(np.array([1, 9, 0, 2, 2])).tolist()
    [True, False, True, True, True]
    """
    head = np.argsort(-counts, kind="stable")[: round(HEAD * len(counts))]
    outside = np.ones(len(counts), dtype=bool)
    outside[head] = False
    return outside


def surprise(counts: Int[np.ndarray, " items"]) -> Float64[np.ndarray, " items"]:
    """−log₂ of each item's share of the training interactions, in bits; one more for each item.

    >>> surprise(np.array([3, 1, 1, 0, 0, 0, 3])).round(2).tolist()
    [1.91, 2.91, 2.91, 3.91, 3.91, 3.91, 1.91]
    """
    more = counts.astype(np.float64) + 1
    return np.log2(more.sum()) - np.log2(more)


def word_vectors(texts: Mapping[str, Sequence[str]]) -> sparse.csr_array | None:
    """Unit vectors of the items' words: how often a word occurs, times log(items / items with it).

    No encoder is asked, so that the figure is the same whichever teacher reads which texts.

    Args:
        texts: field → one text an item; every field's words count.

    Returns:
        [items, words]; a row of zeros for an item without words. None where no item has any.
    """
    together = [" ".join(parts) for parts in zip(*texts.values(), strict=True)]
    found = [_WORD.findall(text.lower()) for text in together]
    index: dict[str, int] = {}
    columns = [index.setdefault(word, len(index)) for words in found for word in words]
    if not columns:
        return None
    rows = np.repeat(np.arange(len(found)), [len(words) for words in found])
    shape = (len(found), len(index))
    counts = sparse.csr_array((np.ones(len(columns)), (rows, columns)), shape=shape)
    counts.sum_duplicates()
    known = np.bincount(counts.indices, minlength=len(index))
    weighted = counts.multiply(np.log(len(found) / known)).tocsr()
    norms = np.sqrt(weighted.multiply(weighted).sum(axis=1))
    # A word that every item has weighs nothing, so a row may be zero.
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return weighted.multiply(scale[:, None]).tocsr()


def diversity(lists: Int[np.ndarray, "users k"], words: sparse.csr_array) -> float:
    """1 − the mean cosine of two different items of a list, mean over lists.

    Σ_{i≠j} x_i·x_j = ‖Σ_i x_i‖² − Σ_i ‖x_i‖², so no pair is looked at.

    Raises:
        ValueError: the lists have fewer than two items.
    """
    users, k = lists.shape
    if k < 2:
        raise ValueError(f"lists of {k} item, expected at least 2")
    own = np.asarray(words.multiply(words).sum(axis=1))
    similar = 0.0
    for block in _blocks(users):
        some = lists[block]
        chosen = sparse.csr_array(
            (np.ones(some.size), some.reshape(-1), k * np.arange(len(some) + 1)),
            shape=(len(some), len(own)),
        )
        sums = sparse.csr_array(chosen @ words)
        similar += float(sums.multiply(sums).sum() - own[some].sum())
    return 1 - similar / (users * k * (k - 1))


def _blocks(users: int, size: int = 4096) -> Iterable[slice]:
    return (slice(first, first + size) for first in range(0, users, size))
