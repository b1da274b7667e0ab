"""Inputs that another thread makes are those that the loop would make, in its order."""

import dataclasses
import itertools
import threading

import jax
import numpy as np
import pytest

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.train import feed
from prmkd_jax.train.feed import ahead, in_calls, placed_inputs
from prmkd_jax.train.inputs import Inputs, training_batches
from prmkd_jax.train.loop import fit
from prmkd_jax.train.sharding import make_mesh
from tests.worlds import RandomTeachers, distilled, make_run, random_world


def apart(inputs: Inputs) -> list[list[np.ndarray]]:
    """The arrays of each step of a call."""
    leaves = jax.tree.leaves((inputs.batch, inputs.distill))
    if inputs.steps == 1:
        return [leaves]
    assert {len(leaf) for leaf in leaves} == {inputs.steps}
    return [[leaf[k] for leaf in leaves] for k in range(inputs.steps)]


def pair(value: int, targets: int = 3, dtype: type = np.int32):
    """A plain step's inputs, which `value` tells from others."""
    token = np.zeros((1, 1), np.int32)
    rows = PackedRows(*[token] * len(PackedRows._fields))
    return Batch(rows, token[0], np.full(targets, value, dtype), np.ones(targets, bool)), None


def steps_of(inputs):
    """Each call's values, one for each of its steps."""
    return [each.batch.targets[..., 0].reshape(-1).tolist() for each in inputs]


def test_a_call_takes_several_steps_in_their_order():
    """Seven steps in threes are 3, 3 and 1; what doesn't fill a call goes step by step."""
    assert steps_of(in_calls(map(pair, range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert steps_of(in_calls(map(pair, range(2)), 3)) == [[0], [1]]
    assert steps_of(in_calls(map(pair, range(2)), 1)) == [[0], [1]]
    assert steps_of(in_calls([], 3)) == []


def test_inputs_of_other_shapes_have_calls_of_their_own():
    """Arrays of other shapes or types are never stacked, and the steps keep their order."""
    inputs = [pair(0, 5), pair(1), pair(2), pair(3, 5), pair(4), pair(5)]
    assert steps_of(in_calls(inputs, 2)) == [[0], [1, 2], [3], [4, 5]]
    typed = [pair(0), pair(1, dtype=np.int64), pair(2)]
    assert steps_of(in_calls(typed, 2)) == [[0], [1], [2]]


def test_large_inputs_are_not_gathered():
    """Each large input has a call of its own, so none waits for the next."""
    large = pair(0, feed._MOST_BYTES // 4)
    assert [each.steps for each in in_calls([large, large, large], 2)] == [1, 1, 1]


def test_values_keep_their_order_and_are_made_by_another_thread():
    """One other thread makes them all, and none is lost, doubled or late."""
    makers = []

    def values():
        for number in range(10):
            makers.append(threading.current_thread())
            yield number

    assert list(ahead(values(), 3)) == list(range(10))
    assert len({*makers}) == 1
    assert threading.main_thread() not in makers


def test_no_more_than_asked_for_are_made_before_they_are_read():
    """With three asked for, at most four of 100 values are made at the first read."""
    made = []

    def values():
        for number in range(100):
            made.append(number)
            yield number

    stream = ahead(values(), 3)
    assert next(stream) == 0
    stream.close()
    assert len(made) <= 4


def test_what_is_raised_is_raised_where_the_value_would_be_read():
    """The value before it is still read, and the error doesn't end in silence."""

    def values():
        yield 1
        raise ValueError("a score that is not finite")

    stream = ahead(values(), 4)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="not finite"):
        next(stream)


def test_inputs_made_ahead_are_those_of_the_loop(tmp_path, monkeypatch):
    """Plain and distilled, the thread makes the same batches as the loop."""
    run = make_run(random_world(), tmp_path)
    mesh = make_mesh(1)

    def leaves(one):
        return [np.asarray(leaf) for each in one for pair in apart(each) for leaf in pair]

    for each in (run, dataclasses.replace(run, **distilled(run))):
        plain = leaves(placed_inputs(each, mesh, training_batches(each).epoch(0)))
        monkeypatch.setattr(feed, "_on_cpu", lambda mesh: False)
        early = leaves(placed_inputs(each, mesh, training_batches(each).epoch(0)))
        monkeypatch.undo()
        assert len(plain) == len(early) > 0
        assert all(np.array_equal(a, b) for a, b in zip(plain, early, strict=True))


def test_what_hangs_on_the_moment_is_not_made_ahead(tmp_path, monkeypatch):
    """The loop itself makes columns by the student's parameters and scores by PyTorch."""
    plain, made = make_run(random_world(), tmp_path), []
    run = dataclasses.replace(plain, **distilled(plain))
    asked = dataclasses.replace(run, teachers=RandomTeachers(random_world(), side="scores"))
    monkeypatch.setattr(feed, "_on_cpu", lambda mesh: False)
    monkeypatch.setattr(feed, "ahead", lambda values, count: made.append(count) or values)
    for each, closed in ((run, lambda batch: None), (asked, None)):
        placed_inputs(each, make_mesh(1), iter(()), closed)
    assert made == []
    for each in (plain, run):
        placed_inputs(each, make_mesh(1), iter(()))
    assert len(made) == 2


def test_several_steps_a_call_train_as_one_does(tmp_path, monkeypatch):
    """Losses and gradient norms agree, with dropout that is drawn by the step's number."""
    run = make_run(random_world(), tmp_path / "one")
    train = dataclasses.replace(run.train, batch_size=32, max_epochs=2)
    # Dropout is drawn from the number of the step, so it tells whether these are counted.
    student = dataclasses.replace(run.student, dropout=0.3)
    run = dataclasses.replace(run, train=train, student=student)
    monkeypatch.setattr(feed, "STEPS_A_CALL", 3)
    steps: list[int] = []
    for each in (run, dataclasses.replace(run, **distilled(run))):
        steps.clear()
        one = fit(dataclasses.replace(each, folder=tmp_path / "one"), lambda done, of: None)
        with monkeypatch.context() as patch:
            patch.setattr(feed, "_on_cpu", lambda mesh: False)
            folder = dataclasses.replace(each, folder=tmp_path / "several")
            several = fit(folder, lambda done, of: steps.append(done))
        assert any(later - earlier == 3 for earlier, later in itertools.pairwise(steps))
        for expected, found in zip(one.history, several.history, strict=True):
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
            assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-4)
            assert found.get("teachers", {}).keys() == expected.get("teachers", {}).keys()
