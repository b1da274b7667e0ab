import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.inputs import training_batches
from tests.distill import reference as eq
from tests.worlds import RandomTeachers, distilled, make_run, random_world

WORLD = random_world(users=24, items=16)


def a_run(tmp_path, side="tables", seed=3, **changes):
    run = make_run(WORLD, tmp_path, seed=seed)
    run = dataclasses.replace(run, **distilled(run, **changes))
    return dataclasses.replace(run, teachers=RandomTeachers(WORLD, side=side))


def largest_disagreements(run) -> np.ndarray:
    """Every training instance's largest disagreement in the first epoch's batches, by hand."""
    histories, config, found = WORLD.interactions, run.distill, []
    for batch in training_batches(run).epoch(0):
        distinct = set(batch.targets[batch.is_instance].tolist())
        for row in np.flatnonzero(batch.is_instance):
            user = histories.users[batch.instance_ids[row]]
            known = histories.items[
                histories.indptr[user] : run.task.split.train_end[user]
            ].tolist()
            own = int(batch.targets[row])
            columns = sorted(distinct - set(known) | {own})
            logits = run.teachers.logits(batch.instance_ids[[row]], np.array(columns))[:, 0]
            rows = [
                eq.normalized_scores(one.tolist(), config.temperature, config.score_normalization)
                for one in logits
            ]
            found.append(max(eq.disagreement(rows)))
    return np.array(found)


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.9])
def test_threshold_is_the_quantile_of_the_first_epoch(tmp_path, quantile):
    """Padded rows don't count, and the quantile is over rows, not over teachers."""
    run = a_run(tmp_path, consistency_quantile=quantile)
    expected = largest_disagreements(run)
    assert len(expected) == len(run.task.split.train)
    threshold = calibrate_threshold(run)
    assert isinstance(threshold, float)
    assert threshold == pytest.approx(np.quantile(expected, quantile), rel=1e-5)
    assert (expected > threshold * 1.00001).mean() == pytest.approx(1 - quantile, abs=0.02)


def test_threshold_depends_on_the_run_alone(tmp_path):
    """Neither an earlier threshold nor where scores are made changes it; the seed does."""
    run = a_run(tmp_path)
    threshold = calibrate_threshold(run)
    assert calibrate_threshold(dataclasses.replace(run, threshold=123.0)) == threshold
    other_side = calibrate_threshold(a_run(tmp_path, side="scores"))
    assert other_side == pytest.approx(threshold, rel=1e-5)
    assert calibrate_threshold(a_run(tmp_path, seed=4)) != threshold


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"consistency_quantile": 0.0}, 0.0),
        ({"consistency_quantile": 1.0}, float("inf")),
        ({"consistency_threshold": 0.125}, 0.125),
        ({"consistency_threshold": 0.0, "consistency_quantile": 1.0}, 0.0),
    ],
)
def test_thresholds_that_need_no_measurement(tmp_path, changes, expected):
    """Quantile 0 gives 0, quantile 1 infinity, and a given threshold comes before both."""
    assert calibrate_threshold(a_run(tmp_path, **changes)) == expected


def test_quantile_semantics_reach_the_step(tmp_path):
    """Quantile 0 drops a teacher wherever any differ, and quantile 1 never drops one."""
    disagreements = largest_disagreements(a_run(tmp_path))
    drop_all = calibrate_threshold(a_run(tmp_path, consistency_quantile=0.0))
    drop_none = calibrate_threshold(a_run(tmp_path, consistency_quantile=1.0))
    # Rows whose only column is the own target can't disagree.
    assert ((disagreements > drop_all) == (disagreements > 1e-9)).all()
    assert not (disagreements > drop_none).any()


def test_rows_that_two_teachers_know_do_not_count(tmp_path):
    """The quantile is over rows that three know; without any, the threshold is infinite."""
    run = a_run(tmp_path)
    disagreements = largest_disagreements(run)
    order = np.concatenate([b.instance_ids[b.is_instance] for b in training_batches(run).epoch(0)])
    tables = run.teachers.tables
    known = np.ones(tables.available.shape, bool)
    known[order[::2], 1] = False
    run.teachers.tables = tables._replace(available=jnp.asarray(known))
    want = np.quantile(disagreements[1::2], 0.5)
    assert calibrate_threshold(run) == pytest.approx(want, rel=1e-5)
    known[:, 2] = False
    run.teachers.tables = tables._replace(available=jnp.asarray(known))
    assert calibrate_threshold(run) == float("inf")


@pytest.mark.parametrize("method", ["best_teacher", "rank_ensemble", "rd"])
def test_methods_without_exclusion_have_no_threshold(tmp_path, method):
    """The threshold is infinite, even where one was given."""
    run = a_run(tmp_path, method=method, consistency_threshold=0.1)
    assert calibrate_threshold(run) == float("inf")


def test_the_catalogues_threshold_is_measured_on_the_catalogue(tmp_path):
    """Its sums are over all items that the user doesn't know, not over those of a batch."""
    run = a_run(tmp_path, negatives="catalogue")
    config, histories, found = run.distill, WORLD.interactions, []
    for instance in run.task.split.train:
        user = histories.users[instance]
        known = histories.items[histories.indptr[user] : run.task.split.train_end[user]].tolist()
        own = int(histories.items[instance])
        columns = np.array(sorted(set(range(WORLD.num_items)) - set(known) | {own}))
        logits = run.teachers.logits(np.array([instance]), columns)[:, 0]
        rows = [
            eq.normalized_scores(one.tolist(), config.temperature, config.score_normalization)
            for one in logits
        ]
        found.append(max(eq.disagreement(rows)))
    assert calibrate_threshold(run) == pytest.approx(np.quantile(found, 0.5), rel=1e-5)


def test_a_plain_run_has_no_threshold(tmp_path):
    """Asking for it is a ValueError, and the default threshold is None."""
    with pytest.raises(ValueError, match="plain run"):
        calibrate_threshold(make_run(WORLD, tmp_path))
    assert DistillConfig().consistency_threshold is None
