"""Models without seeds are ranked by what students are taught, with and without the history."""

import numpy as np
import pytest

from bridge.teacher_vectors import Vectors
from experiments.stages.rows import rank_row
from experiments.stages.teachers import ReadyTeacher
from prmkd_jax.evaluate.metrics import ranking_metrics
from tests.worlds import random_world, task_of

TASK = task_of(random_world())


class Scorer:
    """Drawn scores; every seventh instance is unknown, and the last items always come first."""

    name = "drawn"

    def score(self, instance_ids, items):
        """See `ScoreSource`."""
        drawn = np.random.default_rng(0).integers(0, 9, (len(TASK.dataset.interactions.items), 40))
        scores = drawn[np.asarray(instance_ids)][:, items].astype(np.float32)
        scores[np.asarray(instance_ids) % 7 == 0] = np.nan
        return scores


def drawn_vectors() -> Vectors:
    rng = np.random.default_rng(1)
    interactions = TASK.dataset.interactions
    sizes = (len(interactions.items), 3), (TASK.dataset.num_items, 3)
    instances, items = (rng.integers(-3, 4, size).astype(np.float16) for size in sizes)
    instances[::5] = 0
    return Vectors("drawn", 2.0, instances, items)


def ranks_by_hand(scores_of, part, *, masked):
    histories = TASK.dataset.interactions
    for instance in getattr(TASK.split, part).tolist():
        target = int(histories.items[instance])
        seen = set(histories.items[histories.indptr[histories.users[instance]] : instance].tolist())
        if masked and target in seen:
            yield float("inf")
            continue
        scores = scores_of(instance)
        rivals = [i for i in range(len(scores)) if i != target and not (masked and i in seen)]
        above = sum(scores[i] > scores[target] for i in rivals)
        yield above + 0.5 * sum(scores[i] == scores[target] for i in rivals)


@pytest.mark.parametrize("kind", ["vectors", "scores"])
def test_a_row_is_ranked_as_by_hand(kind):
    """Ranks and metrics agree in both parts, with seen items masked or not."""
    source = drawn_vectors() if kind == "vectors" else Scorer()

    def scores_of(instance):
        if isinstance(source, Vectors):
            return (source.items.astype(float) @ source.instances[instance].astype(float)).tolist()
        scores = source.score([instance], np.arange(TASK.dataset.num_items))[0]
        return np.nan_to_num(scores).tolist()

    row = rank_row(ReadyTeacher(source, {}), TASK)
    assert set(row.metrics) == {"validation", "validation_masked", "test", "test_masked"}
    np.testing.assert_array_equal(row.test, list(ranks_by_hand(scores_of, "test", masked=False)))
    unseen = list(ranks_by_hand(scores_of, "test", masked=True))
    np.testing.assert_array_equal(row.test_masked, unseen)
    for part in ("validation", "test"):
        for masked, name in ((False, part), (True, f"{part}_masked")):
            expected = np.array(list(ranks_by_hand(scores_of, part, masked=masked)))
            assert np.isinf(expected).any() == masked
            assert row.metrics[name] == ranking_metrics(expected)
