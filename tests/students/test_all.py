"""What holds for every student: it learns, sees what it may see, and compiles once."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.dataset import Dataset, Interactions
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import window
from prmkd_jax.train import loop
from prmkd_jax.train.checkpoint import load_checkpoint
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.inputs import training_batches
from prmkd_jax.train.loop import fit
from prmkd_jax.train.run import Fitted, Run, fresh_student
from tests.students.reference import random_params
from tests.worlds import (
    BATCH_SIZE,
    MAX_SEQ_LEN,
    distilled,
    make_run,
    random_world,
    same_bits,
    shelf_world,
    student_config,
)

WORLD = shelf_world()
# Without weight decay, which would move parameters that nothing else does.
TRAIN = TrainConfig(
    batch_size=BATCH_SIZE,
    learning_rate=0.02,
    weight_decay=0.0,
    max_epochs=5,
    patience=5,
    eval_batch_size=32,
    checkpoint_seconds=60,
)


def run_of(name: str, folder, world: Dataset = WORLD, **changes) -> Run:
    student = student_config(student=name, dropout=0.1)
    sizes = {"student": student, "max_seq_len": window(student, MAX_SEQ_LEN), "train": TRAIN}
    return make_run(world, folder, **{**sizes, **changes})


@pytest.fixture
def steps_made(monkeypatch) -> list:
    """The compiled steps of the runs that a test makes."""
    made, make = [], loop.make_train_step

    def recorded(*arguments):
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_train_step", recorded)
    return made


@pytest.mark.parametrize("name", BUILT_IN)
def test_student_learns_more_than_popularity_with_every_parameter(name, tmp_path, steps_made):
    """Gradients reach every parameter, and one compiled step serves all batches and epochs."""
    run = run_of(name, tmp_path)
    assert_learnt(run, fit(run))
    assert [step._cache_size() for step in steps_made] == [1]


def assert_learnt(run: Run, fitted: Fitted):
    """Twice popularity's NDCG@10 on the test part, and no parameter that stayed."""
    histories, test = WORLD.interactions, run.task.split.test
    in_train = np.arange(len(histories.items)) < run.task.split.train_end[histories.users]
    counts = np.bincount(histories.items[in_train], minlength=WORLD.num_items)
    own = counts[histories.items[test]][:, None]
    popular = (counts > own).sum(1) + 0.5 * ((counts == own).sum(1) - 1)
    found, popularity = (
        ranking_metrics(ranks.astype(float))["NDCG@10"]
        for ranks in (fitted.test.all_items, popular)
    )
    assert 0.1 < popularity < 0.25
    assert found > 2 * popularity
    start = jax.device_get(fresh_student(run)[1])
    moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), fitted.params, start)
    assert all(jax.tree.leaves(moved)), moved


def other_held_out(world: Dataset) -> Dataset:
    """The same world, but for every user's validation and test items."""
    split, items = leave_one_out(world.interactions), world.interactions.items.copy()
    held_out = np.concatenate([split.validation, split.test])
    items[held_out] = (items[held_out] + 1 + held_out % 5) % world.num_items
    interactions = Interactions(world.interactions.indptr, items)
    return dataclasses.replace(world, interactions=interactions)


@pytest.mark.parametrize("name", BUILT_IN)
def test_nothing_of_validation_or_test_reaches_the_parameters(name, tmp_path, steps_made):
    """Other held-out items change no loss and no parameter of the distilled student."""
    short, states = dataclasses.replace(TRAIN, max_epochs=2), []
    for folder, world in (("one", WORLD), ("other", other_held_out(WORLD))):
        run = run_of(name, tmp_path / folder, world, train=short)
        run = dataclasses.replace(run, **distilled(run))
        fitted = fit(run)
        like = loop.init_state(fitted.params, loop.make_optimizer(short), 0), fitted.params
        (state, _), progress = load_checkpoint(run.folder, like)
        losses = [{k: v for k, v in r.items() if k != "validation"} for r in progress["history"]]
        states.append((jax.device_get(state), losses, fitted))
    (one, losses, before), (other, others, after) = states
    assert int(one.step) > 4
    assert losses == others
    assert same_bits(one, other)
    assert before.history != after.history
    assert {step._cache_size() for step in steps_made} == {1}


def test_a_second_domain_teaches_by_its_training_part_alone(tmp_path, steps_made):
    """RecGURU beats popularity, and the second domain's held-out items change no parameter."""
    second, fits = random_world(users=30, items=23, seed=8), []
    student = student_config(student="recguru", dropout=0.1, second_domain="Other")
    for folder, other in (("one", second), ("other", other_held_out(second))):
        run = run_of("recguru", tmp_path / folder, student=student, second_domain=other)
        fits.append(fit(run))
        assert_learnt(run, fits[-1])
    assert {"second", "critic"} <= set(fits[0].params)
    assert same_bits(fits[0].params, fits[1].params)
    assert {step._cache_size() for step in steps_made} == {1}


SMALL = random_world()
# Of the central difference: the curvature, ReLU's bends and float32's rounding leave 3 in 1,000.
STEP = 5e-4


@cache
def model(name: str) -> tuple[dict, Any]:
    """Parameters of ordinary size, and the function to a batch's scores [B, items], compiled."""
    graphdef, params = fresh_student(run_of(name, Path("unused"), SMALL))

    @jax.jit
    def scores(params, batch):
        student = nnx.merge(graphdef, nnx.State(params))
        return student.score(batch.at_targets(student.queries(batch.rows)), student.items())

    return random_params(params, seed=5), scores


def batches(name: str, seed: int) -> list[Batch]:
    return list(training_batches(run_of(name, Path("unused"), SMALL, seed=seed)).epoch(0))


@pytest.mark.parametrize("name", BUILT_IN)
def test_scores_depend_on_no_neighbour_and_no_padding(name):
    """Other batches, rows, slots and values in padding leave an instance's scores the same."""
    params, scores = model(name)
    found = []
    for seed in (0, 1):
        of_instance: dict[int, np.ndarray] = {}
        for batch in batches(name, seed):
            padding = batch.rows.segment_ids == 0
            rows = batch.rows._replace(
                item_seq=np.where(padding, 7, batch.rows.item_seq),
                users=np.where(padding, 5, batch.rows.users),
            )
            values = np.asarray(scores(params, batch))
            changed = scores(params, batch._replace(rows=rows))
            np.testing.assert_array_equal(changed[batch.is_instance], values[batch.is_instance])
            of_instance |= dict(
                zip(batch.instance_ids[batch.is_instance], values[batch.is_instance], strict=True)
            )
        found.append(of_instance)
    one, other = found
    assert one.keys() == other.keys() == {*leave_one_out(SMALL.interactions).train}
    for instance, values in one.items():
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values, other[instance], atol=2e-5, rtol=2e-5)


# RecGURU detaches its user vector, as the authors' code does; its gradients have their own test.
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "recguru"])
def test_gradient_is_the_slope(name):
    """The gradient agrees with finite differences along every parameter."""
    params, scores = model(name)
    batch, rng = batches(name, 0)[0], np.random.default_rng(1)
    shape = np.asarray(scores(params, batch)).shape
    weights = np.where(batch.is_instance[:, None], rng.normal(size=shape), 0.0) / np.sqrt(shape[1])

    @jax.jit
    def value(params):
        return (scores(params, batch) * weights).sum()

    leaves, structure = jax.tree.flatten(params)
    gradient = jax.tree.leaves(jax.device_get(jax.grad(value)(params)))
    sizes = [np.linalg.norm(leaf) for leaf in gradient]
    assert min(sizes) > 0.5
    for _ in range(3):
        # Along each parameter's own gradient, so that every one counts, by a random share.
        shares = rng.normal(size=len(leaves)).astype(np.float32)
        along = [c * g / size for c, g, size in zip(shares, gradient, sizes, strict=True)]
        ahead, behind = (
            jax.tree.unflatten(structure, [x + s * d for x, d in zip(leaves, along, strict=True)])
            for s in (STEP, -STEP)
        )
        found = (float(value(ahead)) - float(value(behind))) / (2 * STEP)
        assert abs(found - shares @ sizes) < 0.005 * np.linalg.norm(sizes)
