"""Data and teachers that benchmarks make from nothing."""

import numpy as np

from experiments.benchmarks.made import made_task, made_teachers


def test_a_made_task_has_the_size_asked_for():
    """Every user has a test item, the items are as many as asked, and repeating it is exact."""
    task = made_task(200, 30, 2000)
    lengths = task.dataset.interactions.lengths
    assert lengths.min() >= 4
    assert abs(lengths.sum() - 2000) <= 200
    assert task.dataset.num_items == 30
    assert len(task.split.test) == len(task.split.validation) == 200
    items = task.dataset.interactions.items
    assert items.min() >= 0
    assert items.max() <= 29
    assert (np.bincount(items, minlength=30)[:3] > np.bincount(items, minlength=30)[-3:]).all()
    np.testing.assert_array_equal(items, made_task(200, 30, 2000).dataset.interactions.items)


def test_one_user_may_have_a_long_history():
    """The long history comes first and is added to the 50 others."""
    task = made_task(50, 30, 500, longest=400)
    assert task.dataset.num_users == 51
    assert task.dataset.interactions.lengths[0] == 400


def test_made_teachers_are_mapped(tmp_path):
    """Vectors of a large catalogue stay on disk, and the teachers differ."""
    task = made_task(50, 30, 500)
    teachers = made_teachers(tmp_path, task, 2, 8)
    for teacher in teachers:
        assert isinstance(teacher.instances, np.memmap)
        assert teacher.instances.shape == (len(task.dataset.interactions.items), 8)
        assert teacher.items.shape == (30, 8)
        assert np.abs(np.linalg.norm(np.asarray(teacher.items, float), axis=1) - 1).mean() < 0.5
    assert (teachers[0].items != teachers[1].items).any()
