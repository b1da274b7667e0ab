"""Runs with a curriculum over their training instances."""

import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.curriculum import Curriculum
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.inputs import training_batches
from prmkd_jax.train.loop import fit
from prmkd_jax.train.refit import refit, refit_run
from prmkd_jax.train.run import Run
from prmkd_jax.train.stored import stored_of
from tests.train.test_loop import assert_same
from tests.worlds import distilled, make_run, random_world, student_config

WORLD = random_world()
EPOCHS = 3


def a_run(folder, epochs=EPOCHS, negatives="", **changes) -> Run:
    """A plain run, or one distilled over some columns."""
    run = make_run(WORLD, folder, **changes)
    train = dataclasses.replace(run.train, max_epochs=EPOCHS + 1, curriculum_epochs=epochs)
    run = dataclasses.replace(run, train=train)
    if not negatives:
        return run
    return dataclasses.replace(run, **distilled(run, negatives=negatives))


@pytest.mark.parametrize("epochs", [-1, 5])
def test_a_curriculum_ends_within_the_training(epochs):
    """It may last as many epochs as the training, not more."""
    assert TrainConfig(max_epochs=4, curriculum_epochs=4).curriculum_epochs == 4
    with pytest.raises(UserError, match=f"--curriculum_epochs: found {epochs}, expected at "):
        TrainConfig(max_epochs=4, curriculum_epochs=epochs)


@pytest.mark.parametrize("student", ["sasrec", "bert4rec", "lightgcn"])
def test_every_student_learns_from_what_is_let_in(tmp_path, student):
    """Each epoch trains as many instances as the schedule lets in, at last all of them."""
    config = student_config(student=student)
    run = a_run(tmp_path, student=config)
    schedule = Curriculum(training_batches(run), EPOCHS)
    counts = [
        sum(int(batch.is_instance.sum()) for batch in schedule.epoch(epoch))
        for epoch in range(EPOCHS + 1)
    ]
    found = fit(run).history
    assert [record["instances"] for record in found] == counts
    assert counts[0] < counts[1] < counts[-1] == len(run.task.split.train)


@pytest.mark.parametrize("negatives", ["", "in_batch", "catalogue"])
def test_stopped_and_resumed_it_ends_in_the_same_bits(tmp_path, negatives):
    """The curriculum goes on where it stopped, whatever the negatives."""

    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    whole = fit(a_run(tmp_path / "whole", negatives=negatives))
    run = a_run(tmp_path / "stopped", negatives=negatives)
    # A state after every epoch.
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, checkpoint_seconds=0))
    with pytest.raises(KeyboardInterrupt):
        fit(run, on_epoch=stop)
    assert_same(fit(dataclasses.replace(run, resume=True)), whole)


def test_what_is_made_before_the_first_step_is_of_all_instances(tmp_path):
    """Threshold and joint scores are those of a run without a curriculum."""
    run, plain = (a_run(tmp_path, epochs, "in_batch") for epochs in (EPOCHS, 0))
    assert calibrate_threshold(run) == calibrate_threshold(plain)
    run, plain = (a_run(tmp_path, epochs, "catalogue") for epochs in (EPOCHS, 0))
    stored, expected = stored_of(run), stored_of(plain)
    assert stored is not None
    assert expected is not None
    for batch in training_batches(run).epoch(0):
        np.testing.assert_array_equal(stored(batch).joint, expected(batch).joint)


def test_a_refit_has_a_curriculum_over_its_own_instances(tmp_path, monkeypatch):
    """The validation items take part in the schedule, and in the end all are trained on."""
    asked, epoch = [], TrainingBatches.epoch

    def watched(self, number):
        asked.append(self.task)
        return epoch(self, number)

    run = a_run(tmp_path / "own")
    again = refit_run(run, EPOCHS + 1)
    monkeypatch.setattr(TrainingBatches, "epoch", watched)
    history = refit(run, EPOCHS + 1).history
    assert all(np.array_equal(task.split.train, again.task.split.train) for task in asked)
    instances = [record["instances"] for record in history]
    assert instances[0] < instances[1] < instances[-1] == len(again.task.split.train)
