from typing import NamedTuple

import numpy as np
import pytest

from bridge.live_teachers import LiveTeachers
from bridge.teacher_bank import TeacherBank, Vectors
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from tests.worlds import BATCH_SIZE, MAX_SEQ_LEN, random_world, task_of


class Arrays(NamedTuple):
    """A teacher whose encoder reads its vectors from arrays."""

    name: str
    score_scale: float
    instances: np.ndarray
    items: np.ndarray

    def encode_instances(self, instance_ids):
        """Their rows."""
        return self.instances[instance_ids]

    def encode_items(self):
        """All rows."""
        return self.items


def test_a_scale_that_is_not_above_0_is_refused():
    """With a negative scale, a live teacher's dot products would rank upside down."""
    upside = Arrays("upside", -2.0, np.ones((3, 2), np.float32), np.ones((4, 2), np.float32))
    with pytest.raises(UserError, match=r"^teacher upside: score_scale is -2\.0, expected"):
        LiveTeachers([upside])


def test_live_teachers_score_as_cached_ones():
    """Rows, columns and scales are those of the cache, and unknown instances stay unknown."""
    histories = random_world()
    rng = np.random.default_rng(0)
    teachers = []
    for name, scale, width in (("a", 2.0, 3), ("b", 5.0, 4)):
        rows = len(histories.interactions.items), histories.num_items
        vectors = [rng.standard_normal((n, width)).astype(np.float16) for n in rows]
        vectors[0][histories.interactions.indptr[:-1]] = 0.0
        if name == "b":
            vectors[0][::5] = 0.0  # instances that it doesn't know
        teachers.append(Arrays(name, scale, *(v.astype(np.float32) for v in vectors)))
    bank = TeacherBank(
        [Vectors(t.name, t.score_scale, t.instances, t.items) for t in teachers], [1, 1], "torch"
    )
    live = LiveTeachers(teachers)
    assert live.names == bank.names
    assert live.tables is None
    np.testing.assert_allclose(live.default_weights, bank.default_weights)
    candidates, unknown = np.array([25, 0, 3]), 0
    for batch in TrainingBatches(task_of(histories), MAX_SEQ_LEN, BATCH_SIZE, 0).epoch(0):
        ids, chosen = batch.instance_ids, batch.is_instance
        cached, found = (source.for_batch(ids, candidates) for source in (bank, live))
        assert not np.asarray(found.available)[~chosen].any()
        unknown += int((~np.asarray(found.available)[chosen, 1]).sum())
        np.testing.assert_array_equal(
            np.asarray(found.available)[chosen], np.asarray(cached.available)[chosen]
        )
        np.testing.assert_allclose(
            np.asarray(found.scores)[chosen], np.asarray(cached.scores)[chosen], rtol=1e-5
        )
    assert unknown > 0
