"""The untrained model that gives everybody the same: its scores, and how often it counts."""

import numpy as np
import pytest

from teachers_torch.given.popularity import PopularityTeacher
from tests.teachers_torch.worlds import ring_world, task_of


@pytest.fixture
def task():
    return task_of(ring_world())


def test_scores_are_logarithms_of_one_plus_the_newest_counts(task):
    """Held-out interactions don't count, nor those before the share that does."""
    teacher = PopularityTeacher("popularity", task)
    trained = task.dataset.interactions.items[task.in_train]
    asked = np.array([3, 0, 7])
    for share in (1.0, 0.1):
        teacher.share.fill_(share)
        newest = trained[len(trained) - round(share * len(trained)) :].tolist()
        expected = [np.log(1 + newest.count(item)) for item in asked]
        found = teacher.score(np.array([4, 9]), asked)
        np.testing.assert_allclose(found, [expected, expected], rtol=1e-6)


def test_the_interactions_are_counted_once_a_share(task, monkeypatch):
    """However many batches are asked for."""
    teacher = PopularityTeacher("recent-popularity", task)
    counted, real = [], np.bincount
    monkeypatch.setattr(np, "bincount", lambda *a, **k: counted.append(1) or real(*a, **k))
    for share, times in ((1.0, 1), (0.1, 2), (0.1, 2)):
        teacher.share.fill_(share)
        for batch in (np.array([4]), np.array([9, 2])):
            teacher.score(batch, np.arange(5))
        assert len(counted) == times
