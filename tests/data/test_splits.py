import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.splits import leave_one_out, require_parts


def test_leave_one_out_by_hand():
    """Users of 4, 2, 3, 0 and 1 items: offsets 0–3, 4–5, 6–8, none, 9."""
    interactions = Interactions(
        np.array([0, 4, 6, 9, 9, 10]), np.array([5, 6, 7, 8, 5, 6, 7, 5, 8, 9], dtype=np.int32)
    )
    split = leave_one_out(interactions)
    assert split.test.tolist() == [3, 8]
    assert split.validation.tolist() == [2, 7]
    assert split.train.tolist() == [1, 5]
    assert split.train_end.tolist() == [2, 6, 7, 9, 10]
    assert all(part.dtype == np.int64 for part in (split.train, split.validation, split.test))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_leave_one_out_equals_a_loop_over_users(lengths):
    """A held-out item that is trained on, or an instance that belongs to no part."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    interactions = Interactions(indptr, np.zeros(int(indptr[-1]), dtype=np.int32))
    train, validation, test, train_end = [], [], [], []
    offset = 0
    for length in lengths:
        held_out = 2 if length >= 3 else 0
        positions = [offset + place for place in range(length)]
        kept = positions[: length - held_out]
        train += kept[1:]
        train_end.append(offset + len(kept))
        if held_out:
            validation.append(positions[-2])
            test.append(positions[-1])
        offset += length
    split = leave_one_out(interactions)
    assert split.train.tolist() == train
    assert split.validation.tolist() == validation
    assert split.test.tolist() == test
    assert split.train_end.tolist() == train_end


@pytest.mark.parametrize("length", [2, 3])
def test_data_that_leave_a_part_empty_are_refused(length):
    """A mean over nobody, in a traceback, when the teachers are tuned."""
    indptr = np.arange(0, 5 * length + 1, length)
    interactions = Interactions(indptr, np.zeros(5 * length, dtype=np.int32))
    with pytest.raises(
        UserError, match=r"data set short: found {.*: 0.*} instances, expected some"
    ):
        require_parts("short", leave_one_out(interactions))
