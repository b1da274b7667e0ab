import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import make_task
from tests.worlds import from_histories

HISTORIES = [[0, 1, 2, 3], [2, 1, 0, 3, 2]]


def test_counts_and_mask_are_of_the_training_part_alone():
    task = make_task(from_histories(HISTORIES, num_items=4))
    assert task.in_train.tolist() == [True, True, False, False, True, True, True, False, False]
    assert task.training_counts.tolist() == [2, 2, 1, 0]
    assert task.targets(task.split.test).tolist() == [3, 2]


def test_another_split_of_the_same_data_has_another_digest():
    task = make_task(from_histories(HISTORIES, num_items=4))
    same = make_task(from_histories(HISTORIES, num_items=4))
    shorter = make_task(from_histories([HISTORIES[0], HISTORIES[1][:4]], num_items=4))
    assert same.split_digest == task.split_digest
    assert shorter.split_digest != task.split_digest
    assert len(task.split_digest) == 64


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"--split: found 'random', expected one of leave_one_out"):
        make_task(from_histories(HISTORIES, num_items=4), "random")


def test_a_split_that_leaves_a_part_empty_is_refused():
    with pytest.raises(UserError, match="expected some in each"):
        make_task(from_histories([[0, 1]], num_items=2))


def test_the_mask_is_over_interactions():
    task = make_task(from_histories(HISTORIES, num_items=4))
    assert task.in_train.dtype == np.bool_
