"""The teachers without a cache that the benchmark compares the cached ones with."""

from typing import NamedTuple

import numpy as np
import pytest

from bridge.teacher_bank import TeacherBank
from bridge.teacher_vectors import Vectors
from experiments.benchmarks import steps as bench
from experiments.benchmarks.steps import LiveTeachers, measure, recformer_speed
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.splits import leave_one_out
from tests.teachers_torch.recformer_worlds import make_teacher
from tests.teachers_torch.worlds import ring_world
from tests.worlds import BATCH_SIZE, MAX_SEQ_LEN, random_world


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


def test_live_teachers_score_as_cached_ones():
    """Broken if rows or columns are mixed up, a scale is lost, or padding counts as known."""
    histories = random_world()
    rng = np.random.default_rng(0)
    teachers = []
    for name, scale, width in (("a", 2.0, 3), ("b", 5.0, 4)):
        rows = len(histories.interactions.items), histories.num_items
        vectors = [rng.standard_normal((n, width)).astype(np.float16) for n in rows]
        vectors[0][histories.interactions.indptr[:-1]] = 0.0
        teachers.append(Arrays(name, scale, *(v.astype(np.float32) for v in vectors)))
    bank = TeacherBank(
        [Vectors(t.name, t.score_scale, t.instances, t.items) for t in teachers], [1, 1], "torch"
    )
    live = LiveTeachers(teachers)
    assert live.names == bank.names
    np.testing.assert_allclose(live.default_weights, bank.default_weights)
    split = leave_one_out(histories.interactions)
    candidates = np.array([25, 0, 3])
    batches = TrainingBatches(histories.interactions, split, MAX_SEQ_LEN, BATCH_SIZE, 0)
    for batch in batches.epoch(0):
        cached, found = (source.for_batch(batch, candidates) for source in (bank, live))
        real = np.asarray(batch.real)
        assert not np.asarray(found.available)[~real].any()
        np.testing.assert_array_equal(
            np.asarray(found.available)[real], np.asarray(cached.available)[real]
        )
        np.testing.assert_allclose(
            np.asarray(found.scores)[:, real], np.asarray(cached.scores)[:, real], rtol=1e-5
        )


def test_recformers_speed_counts_real_tokens(monkeypatch):
    """Broken if padding counts, tokens beyond the cut do, or held-out items are read."""
    monkeypatch.setattr(bench, "_median", lambda call, **_: 0.5 if call() is not None else 0)
    dataset = ring_world()
    teacher = make_teacher(dataset, max_tokens=12, batch_size=4)
    items, starts = dataset.interactions.items, dataset.interactions.indptr[:-1]
    train_end = starts + 1 + np.arange(len(starts)) % 6
    measured = recformer_speed(teacher, train_end, seed=0)
    sizes = np.diff(teacher.reader.tokens.indptr)
    lengths = [
        min(12, 1 + sizes[items[start:end]].sum())
        for start, end in zip(starts, train_end, strict=True)
    ]
    assert min(lengths) < 12 == max(lengths)
    first = np.random.default_rng(0).permutation(len(lengths))[:4]
    assert measured == {
        "recformer tokens an instance": np.mean(lengths),
        "recformer encoding tokens/s": 2 * sum(lengths),
        "recformer tuning tokens/s": 2 * sum(lengths[user] for user in first),
    }


def test_a_bench_without_teachers_is_refused():
    """A traceback once the plain student is measured."""
    with pytest.raises(UserError, match="--teachers: found none, expected at least one"):
        measure(settings_from(parse(["--teachers="], GROUPS).configs), 1)
