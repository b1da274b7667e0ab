"""Joint scores of the catalogue that are made once train as those that each step makes."""

import dataclasses

import jax
import numpy as np
import pytest

from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.train import inputs, stored
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.loop import fit
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.refit import refit_run
from prmkd_jax.train.run import Run, fresh_student
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import init_state, make_train_step
from prmkd_jax.train.stored import stored_of
from tests.worlds import RandomTeachers, make_run, random_world, same_bits, student_config

WORLD = random_world()
MESH = make_mesh(1)
# An instance that no teacher knows.
UNKNOWN = int(WORLD.interactions.indptr[3] + 2)


class Forgetful(RandomTeachers):
    """Teachers of whom one doesn't know every third instance, and all don't know one."""

    def for_batch(self, instance_ids, candidates):
        """As all teachers, but for who is available."""
        scores = super().for_batch(instance_ids, candidates)
        known = np.array(scores.available)
        known[instance_ids % 3 == 0, 1] = False
        known[instance_ids == UNKNOWN] = False
        return scores._replace(available=jax.numpy.asarray(known))


def a_run(folder, teachers=None, epochs=2, **changes) -> Run:
    """A run over the catalogue of enough small batches that most come from the store."""
    run = make_run(WORLD, folder, student=student_config(dropout=0.0))
    train = dataclasses.replace(run.train, max_epochs=epochs, batch_size=26)
    config = DistillConfig(negatives="catalogue", **changes)
    teachers = teachers or RandomTeachers(WORLD)
    return dataclasses.replace(run, train=train, distill=config, teachers=teachers, threshold=1.3)


def steps_of(run: Run, kept=None):
    """The first epoch's metrics, and the parameters after it."""
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    state = place(MESH, init_state(params, optimizer, run.seed))
    step = make_train_step(graphdef, optimizer, run.distill, run.student, MESH)
    constants = place(MESH, run_constants(run))
    found = []
    for each in distill_inputs(run, training_batches(run).epoch(0), stored=kept):
        state, metrics = step(state, *place_inputs(MESH, *each), constants)
        found.append(metrics)
    return jax.device_get(found), jax.device_get(state.params)


@pytest.mark.parametrize(
    ("side", "changes"),
    [
        ("tables", {}),
        ("scores", {"seen_items": "unwanted", "kl": "forward"}),
        ("tables", {"seen_items": "scored", "kd_include_positive": False}),
        ("tables", {"teacher_history": "whole", "score_normalization": "minmax"}),
        ("tables", {"method": "unkd", "unkd_groups": 3}),
        ("tables", {"method": "label_smoothing"}),
    ],
)
def test_stored_scores_train_as_those_that_each_step_makes(tmp_path, side, changes):
    """Losses, gradients and parameters agree for each option, with unknown instances too."""
    run = a_run(tmp_path, Forgetful(WORLD, side=side), **changes)
    computed, params = steps_of(run)
    found, stored_params = steps_of(run, stored_of(run))
    assert [one.teachers is None for one in found] == [False] + [True] * (len(computed) - 1)
    assert len(found) > 3
    for one, other in zip(found, computed, strict=True):
        for name in ("loss", "distillation", "gradient_norm", "num_instances"):
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=2e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5)  # noqa: E731
    jax.tree.map(close, stored_params, params)


def test_an_instance_that_no_teacher_knows_teaches_nothing(tmp_path):
    """All its columns are masked, so it has no uniform target."""
    run = a_run(tmp_path, Forgetful(WORLD, side="scores"))
    assert UNKNOWN in run.task.split.train
    give, seen = stored_of(run), False
    assert give is not None
    for batch in training_batches(run).epoch(1):
        columns = give(batch).columns
        unknown = batch.instance_ids == UNKNOWN
        seen |= bool(unknown.any())
        assert not columns.valid[unknown | ~batch.is_instance].any()
        rest = batch.is_instance & ~unknown
        assert columns.valid[rest, columns.target_column[rest]].all()
    assert seen


def test_teachers_are_asked_once_for_most_batches(tmp_path):
    """They score each batch of one epoch, and after that one measurement an epoch."""
    asked = []

    class Counted(RandomTeachers):
        def for_batch(self, instance_ids, candidates):
            asked.append(len(candidates))
            return super().for_batch(instance_ids, candidates)

    run = a_run(tmp_path, Counted(WORLD, side="scores"), epochs=3)
    history = fit(run).history
    batches = [len(list(training_batches(run).epoch(epoch))) for epoch in range(3)]
    assert all(1 < number < inputs.BATCHES_A_MEASURE for number in batches)
    assert asked == [WORLD.num_items] * (batches[0] + 3)
    assert all(set(one["teachers"]) == set(run.teachers.names) for one in history)


def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path):
    """Scores don't depend on the epoch in which they are made."""

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    whole = fit(a_run(tmp_path / "whole", epochs=4))
    run = a_run(tmp_path / "stopped", epochs=4)
    # A state after every epoch.
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, checkpoint_seconds=0))
    with pytest.raises(KeyboardInterrupt):
        fit(run, on_epoch=stop)
    resumed = fit(dataclasses.replace(run, resume=True))
    assert resumed.history == whole.history
    assert same_bits(resumed.params, whole.params)


def test_a_refit_has_scores_of_its_own(tmp_path):
    """It has rows for the validation instances and masks of the larger training part."""
    run = dataclasses.replace(refit_run(a_run(tmp_path), 1), folder=tmp_path / "again")
    more = np.setdiff1d(run.task.split.train, a_run(tmp_path).task.split.train)
    assert len(more)
    computed, params = steps_of(run)
    found, stored_params = steps_of(run, stored_of(run))
    np.testing.assert_allclose(found[-1].loss, computed[-1].loss, rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), stored_params, params)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "kept"),
    [(1.0, 9.0, "float32"), (0.9, 1.0, "bfloat16"), (0.1, 0.9, None)],
)
def test_the_number_of_scores_alone_decides_how_they_are_kept(
    tmp_path, monkeypatch, float32, bfloat16, kept
):
    """Few scores are kept in float32, more in bfloat16, and too many not at all."""
    run = a_run(tmp_path)
    size = len(run.task.split.train) * WORLD.num_items
    monkeypatch.setattr(stored, "MOST_FLOAT32", int(float32 * size))
    monkeypatch.setattr(stored, "MOST_BFLOAT16", int(bfloat16 * size))
    found = stored_of(run)
    assert (found and found.dtype.name) == kept
    other = dataclasses.replace(run.distill, negatives="in_batch")
    assert stored_of(dataclasses.replace(run, distill=other)) is None
    # An order needs more than eight bits.
    order = dataclasses.replace(run.distill, method="rd")
    found_order = stored_of(dataclasses.replace(run, distill=order))
    assert (found_order and found_order.dtype.name) == (kept if kept == "float32" else None)
    if kept == "bfloat16":
        losses = [[float(one.distillation) for one in steps_of(run, k)[0]] for k in (found, None)]
        # Eight bits: shares of the target are within 0.4 %.
        np.testing.assert_allclose(*losses, rtol=2e-3)
        assert losses[0] != losses[1]


def test_a_teachers_nan_reaches_the_loss(tmp_path):
    """A broken teacher isn't taken for masked columns, and other rows stay finite."""
    run = a_run(tmp_path)
    batch = next(training_batches(run).epoch(1))
    tables, broken = run.teachers.tables, int(batch.instance_ids[5])
    instances = (tables.instances[0].at[broken].set(np.nan), *tables.instances[1:])
    run.teachers.tables = tables._replace(instances=instances)
    give = stored_of(run)
    assert give is not None
    distill = give(batch)
    assert np.isnan(distill.joint[5, distill.columns.valid[5]]).all()
    assert distill.columns.valid[5].any()
    assert np.isfinite(distill.joint[6:]).all()
