from typing import NamedTuple

import numpy as np
import pytest

from bridge.live_teachers import LiveTeachers
from bridge.teacher_bank import TeacherBank, Vectors
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from teachers_torch.config import UniSRecConfig
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.sequence.unisrec import UniSRec
from tests.teachers_torch.worlds import randomise
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


def test_the_items_are_adapted_once_for_all_batches(monkeypatch):
    """Every batch's scores are still those of the teacher itself."""
    histories = random_world()
    texts = np.random.default_rng(0).normal(size=(histories.num_items, 5)).astype(np.float32)
    config = UniSRecConfig(hidden_size=8, num_layers=1, inner_size=4, num_experts=2, batch_size=64)
    model = UniSRec(config, texts, MAX_SEQ_LEN, transductive=True)
    randomise(model)
    teacher = TunedTeacher("any", model.eval(), histories.interactions, config, MAX_SEQ_LEN)
    batches = list(TrainingBatches(task_of(histories), MAX_SEQ_LEN, BATCH_SIZE, 0).epoch(0))
    candidates = np.array([25, 0, 3])
    items = teacher.encode_items()[candidates]
    expected = [
        teacher.score_scale * teacher.encode_instances(batch.instance_ids) @ items.T
        for batch in batches
    ]
    adapted, real = [], model.item_reprs
    monkeypatch.setattr(model, "item_reprs", lambda: adapted.append(1) or real())
    live = LiveTeachers([teacher])
    for batch, own in zip(batches, expected, strict=True):
        found = live.for_batch(batch.instance_ids, candidates)
        chosen = batch.is_instance
        assert np.asarray(found.available)[chosen].all()
        np.testing.assert_allclose(
            np.asarray(found.scores)[chosen, 0], own[chosen], rtol=1e-5, atol=1e-5
        )
    assert len(batches) > 1
    assert len(adapted) == 1
