import numpy as np

from prmkd_jax.data.popularity import popularity_groups
from tests.worlds import from_histories, task_of


def test_popularity_groups_by_hand():
    """Groups have equal popularity rather than equal size, and held-out items don't count."""
    # Training counts: item 0 six, 1 three, 2 two, 3 one, 4 none; 4 and 5 are held out.
    world = from_histories([[0, 0, 0, 1, 2, 4, 5], [0, 0, 0, 1, 1, 2, 3, 5, 4]], 6)
    counts = task_of(world).training_counts
    assert popularity_groups(counts, 1).tolist() == [0] * 6
    assert popularity_groups(counts, 2).tolist() == [1, 0, 0, 0, 0, 0]
    assert popularity_groups(counts, 3).tolist() == [2, 1, 0, 0, 0, 0]
    assert popularity_groups(counts, 3).dtype == np.int32
