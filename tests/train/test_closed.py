"""Closed columns hold what the teachers together, and the student, rank highest."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.data.batches import Batch
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students.student import create_student
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.closed import ClosedColumns, closed_of, teachers_best
from prmkd_jax.train.inputs import distill_inputs, training_batches
from prmkd_jax.train.loop import fit
from tests.distill import reference as eq
from tests.students import reference
from tests.train.test_stored import UNKNOWN, Forgetful
from tests.worlds import RandomTeachers, facts, make_run, random_world, student_config

WORLD = random_world()
TOP = 3


def closed_run(tmp_path, columns=2048, history="prefix", **changes):
    """A distilled run that is ready for its first step."""
    config = DistillConfig(
        negatives="closed",
        closed_top=TOP,
        closed_columns=columns,
        distill_weight=1.0,
        teacher_history=history,
    )
    run = make_run(WORLD, tmp_path, student=student_config(dropout=0.0), **changes)
    run = dataclasses.replace(run, distill=config, teachers=RandomTeachers(WORLD))
    run = dataclasses.replace(run, best_items=teachers_best(run))
    return dataclasses.replace(run, threshold=calibrate_threshold(run))


@pytest.mark.parametrize("history", ["prefix", "whole"])
def test_the_teachers_best_items_are_those_of_the_joint_scores(tmp_path, history):
    """The teachers' weighted scores decide, over the prefix or over the whole history."""
    run = closed_run(tmp_path, history=history)
    users, ends = WORLD.interactions.users, WORLD.interactions.indptr[1:]
    assert run.best_items.shape == (len(WORLD.interactions.items), TOP)
    for instance in run.task.split.train[::7]:
        after = run.task.split.train_end[users[instance]]
        whole = history == "whole" and after < ends[users[instance]]
        read = np.array([after if whole else instance])
        logits = run.teachers.logits(read, np.arange(WORLD.num_items))[:, 0]
        joint = sum(
            weight * np.array(eq.normalized_scores(list(row), 0.5, "zscore_softmax"))
            for weight, row in zip(run.teachers.default_weights, logits, strict=True)
        )
        assert run.best_items[instance].tolist() == np.argsort(-joint)[:TOP].tolist()


def test_teachers_that_give_scores_have_the_same_best_items(tmp_path):
    """The scores are those of the whole history, too, where the teachers read it."""
    config = DistillConfig(negatives="closed", closed_top=TOP, teacher_history="whole")
    run = make_run(WORLD, tmp_path, distill=config, teachers=RandomTeachers(WORLD))
    given = dataclasses.replace(run, teachers=RandomTeachers(WORLD, side="scores"))
    np.testing.assert_array_equal(teachers_best(given), teachers_best(run))


def test_columns_hold_targets_teachers_and_students_best(tmp_path):
    """The student's best are those of its present parameters, and no item is left out."""
    run = closed_run(tmp_path)
    graphdef, state = create_student(run.student, facts(WORLD), run.seed)
    closed = ClosedColumns(run, graphdef)
    batches = list(training_batches(run).epoch(0))
    for seed, batch in enumerate(batches[:2]):
        closed.params = reference.random_params(nnx.to_pure_dict(state), seed)
        columns = closed(batch)
        expected = set(batch.targets[batch.is_instance].tolist())
        expected |= set(run.best_items[batch.instance_ids[batch.is_instance]].ravel().tolist())
        expected |= set(students_best(run, closed.params, batch))
        used = columns.candidates[columns.valid.any(axis=0)]
        # A column that is in every row's history counts for nobody.
        assert set(used.tolist()) <= expected
        assert expected <= set(columns.candidates.tolist())
    report = closed.report()
    assert report["left_out"] == 0
    assert 0 < report["used"] <= WORLD.num_items
    assert closed.batches == 0


def students_best(run, params, batch: Batch):
    """The best items of every row, in float64."""
    histories = WORLD.interactions
    table = np.asarray(params["item_embedding"]["table"], dtype=float)
    torch_params = reference.to_torch(params)
    for instance in batch.instance_ids[batch.is_instance]:
        first = histories.indptr[histories.users[instance]]
        seen = histories.items[first:instance].tolist()
        vector = reference.user_vector(torch_params, seen, run.student.num_heads, run.window)
        yield from np.argsort(-(table @ vector.detach().numpy()))[:TOP].tolist()


def test_items_without_room_are_counted_and_said(tmp_path):
    """A large batch has room for all, and with a batch of 26 the report counts the rest."""
    size = len(np.unique(WORLD.interactions.items))
    run = closed_run(tmp_path, columns=1)  # a batch's size at least
    assert run.train.batch_size > size
    fitted = fit(dataclasses.replace(run, train=dataclasses.replace(run.train, max_epochs=1)))
    assert fitted.history[0]["columns"]["left_out"] == 0
    small = dataclasses.replace(run, train=dataclasses.replace(run.train, batch_size=26))
    columns = ClosedColumns(small)
    for batch in training_batches(small).epoch(0):
        columns(batch)
    assert columns.report()["left_out"] > 0


def test_closed_columns_of_a_small_catalogue_teach_as_the_catalogue_does(tmp_path):
    """With room for all and every item wanted, the two are the same."""
    run = closed_run(tmp_path)
    every = np.tile(np.arange(WORLD.num_items, dtype=np.int32), (len(run.best_items), 1))
    run = dataclasses.replace(run, best_items=every)
    whole = dataclasses.replace(
        run, distill=dataclasses.replace(run.distill, negatives="catalogue")
    )
    epochs = (training_batches(run).epoch(0), training_batches(run).epoch(0))
    inputs = (distill_inputs(run, epochs[0], closed_of(run)), distill_inputs(whole, epochs[1]))
    for (_, one), (_, other) in zip(*inputs, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one.columns, other.columns)


def test_an_instance_that_no_teacher_knows_wants_no_item(tmp_path):
    """Its targets alone are columns, not the first items of the numbering."""
    run = closed_run(tmp_path)
    unknowing = dataclasses.replace(run, teachers=Forgetful(WORLD, side="scores"))
    best = teachers_best(unknowing)
    train = run.task.split.train
    assert UNKNOWN in train
    assert (best[UNKNOWN] == -1).all()
    others = train[train != UNKNOWN]
    assert (best[others] >= 0).all()
    known = others[others % 3 > 0]  # to all teachers
    np.testing.assert_array_equal(best[known], run.best_items[known])
    batch = next(training_batches(run).epoch(0))
    nobody = dataclasses.replace(unknowing, best_items=np.full_like(best, -1))
    columns = ClosedColumns(nobody)(batch)
    used = columns.candidates[columns.valid.any(axis=0)]
    assert set(used.tolist()) <= set(batch.targets[batch.is_instance].tolist())


def test_a_student_that_diverges_says_so(tmp_path):
    """Scores that are no numbers have no best items: it ends as over the batch's items."""
    run = closed_run(tmp_path)
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, learning_rate=1e38))
    with pytest.raises(FloatingPointError, match="a score that is not finite"):
        fit(run)


def test_a_run_without_the_teachers_best_items_is_refused(tmp_path):
    """It is a ValueError, not a training on columns of zeros."""
    run = dataclasses.replace(closed_run(tmp_path), best_items=None)
    with pytest.raises(ValueError, match="closed columns need the teachers' best items"):
        closed_of(run)
    with pytest.raises(ValueError, match="closed columns need to know"):
        next(distill_inputs(run, training_batches(run).epoch(0)))
