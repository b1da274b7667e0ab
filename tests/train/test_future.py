"""Students are the same, bit for bit, whatever the test period holds, in every split."""

import dataclasses

import pytest

from prmkd_jax.data.config import SPLITS
from prmkd_jax.students.facts import make_facts
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.loop import fit
from tests.futures import after_test_begins, tiny_task, with_other_items
from tests.worlds import MAX_SEQ_LEN, distilled, make_run, same_bits


def trained(task, folder, method):
    base = make_run(task.dataset, folder)
    train = dataclasses.replace(base.train, max_epochs=2)
    facts = make_facts(task, MAX_SEQ_LEN)
    run = dataclasses.replace(base, task=task, facts=facts, train=train)
    threshold = None
    if method:
        run = dataclasses.replace(run, **distilled(run, method=method, seen_items="out"))
        threshold = calibrate_threshold(run)
        run = dataclasses.replace(run, threshold=threshold)
    return threshold, fit(run)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("method", ["", "prmkd"])
def test_what_is_learned_and_chosen_does_not_depend_on_the_test_period(split, method, tmp_path):
    task = tiny_task(split)
    moved = with_other_items(task, split, after_test_begins(task, split))
    threshold, one = trained(task, tmp_path / "one", method)
    other_threshold, other = trained(moved, tmp_path / "other", method)
    assert threshold == other_threshold
    assert same_bits(one.params, other.params)
    assert one.best_epoch == other.best_epoch
    validation = [[epoch["validation"] for epoch in each.history] for each in (one, other)]
    assert validation[0] == validation[1]
