"""Rows of different lengths in one array: where each begins, and each entry's place in its own."""

import numpy as np
import pytest

from prmkd_jax.common.ragged import offsets_of, places_within


@pytest.mark.parametrize("counts", [[], [0], [3], [0, 2, 0, 0, 1, 5, 0]])
def test_offsets_and_places_are_those_of_a_loop(counts):
    """This includes empty rows at the start, at the end and alone."""
    counts = np.array(counts, dtype=np.int32)
    ends, places = [0], []
    for count in counts.tolist():
        ends.append(ends[-1] + count)
        places += range(count)
    assert offsets_of(counts).tolist() == ends
    assert places_within(counts).tolist() == places
    assert offsets_of(counts).dtype == places_within(counts).dtype == np.int64


def test_offsets_of_a_mask_count_what_is_true_before():
    assert offsets_of(np.array([True, False, True])).tolist() == [0, 1, 1, 2]
