"""Items in groups of similar popularity, as UnKD (Chen et al., 2023) divides them."""

import numpy as np
from jaxtyping import Int32, Int64


def popularity_groups(counts: Int64[np.ndarray, " V"], groups: int) -> Int32[np.ndarray, " V"]:
    """Every item's group, 0 the least popular; all have about equally many interactions.

    The items, in the order of their counts (equal ones in the order of their ids), are cut
    where the running sum passes an equal share.

    Args:
        counts: training interactions of each item (`Task.training_counts`).
        groups: number of groups.

    >>> popularity_groups(np.array([10, 1, 2, 3, 4]), 2).tolist()
    [1, 0, 0, 0, 0]
    """
    order = np.argsort(counts, kind="stable")
    # The middle of its own interactions decides which share of the sum an item falls in.
    middle = np.cumsum(counts[order]) - counts[order] / 2
    group = np.empty(len(counts), dtype=np.int32)
    group[order] = np.minimum(groups * middle // max(counts.sum(), 1), groups - 1)
    return group
