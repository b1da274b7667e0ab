"""A student trained again on training and validation interactions."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.splits import given, global_temporal, leave_one_out, with_validation
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.evaluator import Evaluator
from prmkd_jax.students.facts import make_facts
from prmkd_jax.train.closed import teachers_best
from prmkd_jax.train.loop import fit
from prmkd_jax.train.refit import refit, refit_run
from prmkd_jax.train.run import Run, fresh_student
from tests.worlds import distilled, make_run, random_world, same_bits, student_config

WORLD = random_world()


def a_run(folder, kind="plain", **changes) -> Run:
    run = make_run(WORLD, folder / "own", **changes)
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, refit=True))
    if kind == "plain":
        return run
    if kind == "prmkd":
        return dataclasses.replace(run, **distilled(run))
    run = dataclasses.replace(run, **distilled(run, negatives=kind, closed_top=3))
    return dataclasses.replace(run, best_items=teachers_best(run))


def left(refitted) -> dict[str, Any]:
    """All that a refit leaves behind, but for the seconds and the facts."""
    return {name: getattr(refitted, name) for name in ("params", "test", "history")}


# Of four users, who have 6, 3, 3 and 2 interactions.
TIMES = [1, 2, 3, 4, 5, 6, 1, 2, 9, 5, 6, 7, 8, 9]
HISTORIES = Interactions(
    indptr=np.array([0, 6, 9, 12, 14]),
    items=np.arange(14, dtype=np.int32),
    timestamps=np.array(TIMES, dtype=np.int64),
    parts=np.array([0, 0, 0, 0, 1, 2, 0, 0, 1, 0, 1, 2, 0, 2], dtype=np.int8),
)


@pytest.mark.parametrize(
    ("split", "train_end", "train"),
    [
        (leave_one_out(HISTORIES), [5, 8, 11, 14], [1, 2, 3, 4, 7, 10, 13]),
        (given(HISTORIES), [5, 9, 11, 13], [1, 2, 3, 4, 7, 8, 10]),
        # Cuts at 4.5 and 7.5 of the clock: all that lies before the second one.
        (
            global_temporal(
                HISTORIES, ("1970-01-01T00:00:00.000004", "1970-01-01T00:00:00.000008")
            ),
            [6, 8, 12, 12],
            [1, 2, 3, 4, 5, 7, 10, 11],
        ),
    ],
)
def test_the_training_part_takes_in_the_validation_part(split, train_end, train):
    """Test items are never trained on and validation items always are, with each split."""
    both = with_validation(split, HISTORIES)
    assert both.train_end.tolist() == train_end
    assert both.train.tolist() == train
    np.testing.assert_array_equal(both.test, split.test)
    assert not np.isin(both.test, both.train).any()
    assert set(split.train) | set(split.validation) <= set(both.train)


@pytest.mark.parametrize("kind", ["plain", "prmkd", "closed"])
def test_it_is_the_same_training_on_more_data(tmp_path, kind):
    """Start, seed and threshold stay; edges, batches and best items follow the new data."""
    run = a_run(tmp_path, kind)
    refitted = refit(run, 1)
    task = Task(WORLD, with_validation(run.task.split, WORLD.interactions))
    same = dataclasses.replace(
        run,
        task=task,
        facts=make_facts(task, run.window),
        folder=tmp_path / "same",
        train=dataclasses.replace(run.train, max_epochs=1),
    )
    if run.best_items is not None:
        same = dataclasses.replace(same, best_items=teachers_best(same))
    expected = fit(same)
    assert expected.best_epoch == 1
    assert same_bits(jax.device_get(refitted.params), jax.device_get(expected.params))
    assert same_bits(refitted.test, expected.test)
    without = {name: value for name, value in expected.history[0].items() if name != "validation"}
    assert refitted.history == [without]
    assert refitted.facts == same.facts != run.facts


def test_it_trains_as_long_as_it_is_told_and_ranks_once(tmp_path, monkeypatch):
    """There is no second early stop, and without rank_test nothing is ranked."""
    ranked = []
    monkeypatch.setattr(
        Evaluator,
        "with_best",
        lambda *asked, _own=Evaluator.with_best: ranked.append(1) or _own(*asked),
    )
    run = a_run(tmp_path)
    epochs = []
    refit(run, 11, on_epoch=lambda record: epochs.append(record["epoch"]))
    assert (epochs, len(ranked)) == (list(range(1, 12)), 1)
    assert refit(dataclasses.replace(run, rank_test=False), 1).test is None
    assert len(ranked) == 1


def test_no_epoch_leaves_the_start(tmp_path):
    """With 0 epochs the given start comes back untrained, and it is ranked."""
    run = a_run(tmp_path, start=jax.device_get(fresh_student(a_run(tmp_path))[1]))
    refitted = refit(run, 0)
    assert same_bits(jax.device_get(refitted.params), run.start)
    assert refitted.history == []
    assert refitted.test is not None


def test_stopped_and_resumed(tmp_path):
    """Refit and chosen student have checkpoints of their own."""
    run = a_run(tmp_path)
    # A state after every epoch.
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, checkpoint_seconds=0))
    fitted = fit(run)
    whole = refit(a_run(tmp_path / "whole"), 4)

    def stop(record):
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refit(run, 4, on_epoch=stop)
    again = dataclasses.replace(run, resume=True)
    epochs = []
    resumed = refit(again, 4, on_epoch=lambda record: epochs.append(record["epoch"]))
    assert epochs == [3, 4]
    assert same_bits(left(resumed), left(whole))
    assert fit(again).history == fitted.history


def test_a_graph_gets_the_new_edges(tmp_path):
    """LightGCN smooths over the validation part's edges too."""
    run = a_run(tmp_path, student=student_config(student="lightgcn"))
    again = refit_run(run, 1)
    added = len(again.task.split.train) - len(run.task.split.train)
    assert added == len(run.task.split.validation) > 0
    assert again.facts.edges.shape[1] > run.facts.edges.shape[1]
    assert refit(run, 1).test is not None
