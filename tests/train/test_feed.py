"""Inputs that another thread makes are those that the loop would make, in its order."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

from prmkd_jax.train import feed
from prmkd_jax.train.feed import ahead, placed_inputs
from prmkd_jax.train.inputs import training_batches
from prmkd_jax.train.sharding import make_mesh
from tests.worlds import distilled, make_run, random_world


def test_values_keep_their_order_and_are_made_by_another_thread():
    """A value lost, doubled or late."""
    makers = []

    def values():
        for number in range(10):
            makers.append(threading.current_thread())
            yield number

    assert list(ahead(values(), 3)) == list(range(10))
    assert len({*makers}) == 1
    assert threading.main_thread() not in makers


def test_no_more_than_asked_for_are_made_before_they_are_read():
    """An epoch's inputs in memory at once."""
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
    """A teacher's bad score that ends in silence, or before the steps of the inputs before it."""

    def values():
        yield 1
        raise ValueError("a score that is not finite")

    stream = ahead(values(), 4)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="not finite"):
        next(stream)


def test_inputs_made_ahead_are_those_of_the_loop(tmp_path, monkeypatch):
    """Batches that depend on who makes them."""
    run = make_run(random_world(), tmp_path)
    mesh = make_mesh(1)

    def leaves(one):
        return [np.asarray(leaf) for each in one for leaf in jax.tree.leaves(each)]

    for each in (run, dataclasses.replace(run, **distilled(run))):
        plain = leaves(placed_inputs(each, mesh, training_batches(each).epoch(0)))
        monkeypatch.setattr(feed, "_on_cpu", lambda mesh: False)
        early = leaves(placed_inputs(each, mesh, training_batches(each).epoch(0)))
        monkeypatch.undo()
        assert len(plain) == len(early) > 0
        assert all(np.array_equal(a, b) for a, b in zip(plain, early, strict=True))
