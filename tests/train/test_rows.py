"""A step on the rows that it needs gives the loss and the gradients of a step on all."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students.registry import student_class
from prmkd_jax.students.student import HasAuxiliary, MakesSomeItems, create_student
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.rows import (
    ItemTables,
    check_lazy,
    lazy_tables,
    needed_items,
    put_rows,
    take_rows,
)
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import init_state, make_train_step
from tests.students import reference
from tests.worlds import RandomTeachers, facts, from_histories, make_run, student_config
from tests.xla import AS_OUTSIDE

ITEMS, READ = 500, 60
TABLE = "item_embedding.table"
MESH = make_mesh(5)


def some_items_world():
    """Of 500 items, the histories have the even ones below 120."""
    rng = np.random.default_rng(0)
    histories = [(2 * rng.integers(0, READ, n)).tolist() for n in rng.integers(3, 9, 40)]
    return from_histories(histories, ITEMS)


WORLD = some_items_world()


def run_of(tmp_path, *, lazy, loss="sampled_softmax", student="sasrec", taught=True, decay=0.0):
    config = student_config(student=student, dropout=0.3, loss=loss, num_negatives=9)
    run = make_run(WORLD, tmp_path, student=config)
    train = dataclasses.replace(run.train, lazy_adam=lazy, weight_decay=decay)
    run = dataclasses.replace(run, train=train)
    if taught:
        teachers = RandomTeachers(WORLD, side="tables")
        run = dataclasses.replace(run, distill=DistillConfig(), teachers=teachers, threshold=1.3)
    return run


def stepping(run):
    """The first state, the step and its inputs."""
    graphdef, state = create_student(run.student, facts(WORLD), run.seed)
    optimizer = make_optimizer(run.train)
    params = reference.random_params(nnx.to_pure_dict(state), 1)
    state = place(MESH, init_state(params, optimizer, run.seed))
    step = make_train_step(graphdef, optimizer, run.distill, run.student, MESH, lazy_tables(run))
    inputs = list(distill_inputs(run, training_batches(run).epoch(0)))
    return state, step, inputs, place(MESH, run_constants(run))


def table_of(tree):
    return np.asarray(tree["item_embedding"]["table"])


def moments(state):
    """Adam's first and second moments of the item table."""
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    return [np.asarray(leaf) for path, leaf in leaves if leaf.shape == (ITEMS, 12)]


@pytest.mark.parametrize(
    ("student", "loss"), [("sasrec", "sampled_softmax"), ("gru4rec", "gbce"), ("sasrec", "bpr")]
)
def test_the_first_step_is_that_of_dense_adam_on_the_rows_that_it_reads(tmp_path, student, loss):
    """Losses, parameters and moments agree, and only rows that are read change."""
    found = {}
    for lazy in (False, True):
        run = run_of(tmp_path, lazy=lazy, loss=loss, student=student)
        state, step, inputs, constants = stepping(run)
        before = table_of(jax.device_get(state.params))
        given = (*place_inputs(MESH, *inputs[0]), constants)
        # With the fusions that users have: what is 0 but for rounding, such as the gradient of the
        # keys' bias, becomes a whole step of Adam's, so both must round alike.
        program = step.lower(state, *given).compile(AS_OUTSIDE)
        state, metrics = program(state, *given)
        found[lazy] = jax.device_get((state, metrics))
    (dense, one), (rows, other) = found[False], found[True]
    for name in ("loss", "cross_entropy", "distillation", "gradient_norm"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5), name
    # Without decay a row that isn't read has no gradient, and its first dense step is 0 too.
    for a, b in zip(jax.tree.leaves(dense.params), jax.tree.leaves(rows.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    for a, b in zip(moments(dense), moments(rows), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    changed = (before != table_of(rows.params)).any(axis=1)
    # bpr draws an item for each of the 65 instances.
    assert 0 < changed.sum() < READ + 65


@pytest.mark.parametrize(
    ("student", "loss"), [("fm", "bpr"), ("fm", "softmax"), ("deepfm", "sampled_softmax")]
)
def test_items_made_for_the_losses_alone_give_the_gradients_of_all_items(
    tmp_path, monkeypatch, student, loss
):
    """Losses that draw ask for fewer items than there are; softmax reads all of them."""
    kind, asked, found = student_class(student), [], []
    make = kind.items_at

    def recorded(self, ids):
        asked.append(len(ids))
        return make(self, ids)

    monkeypatch.setattr(kind, "items_at", recorded)
    for asks in (MakesSomeItems, HasAuxiliary):  # the latter is none of theirs
        monkeypatch.setattr("prmkd_jax.train.step.MakesSomeItems", asks)
        make_train_step.cache_clear()
        state, step, inputs, constants = stepping(
            run_of(tmp_path, lazy=False, loss=loss, student=student)
        )
        state, metrics = step(state, *place_inputs(MESH, *inputs[0]), constants)
        found.append(jax.device_get((state.opt_state, metrics)))
    make_train_step.cache_clear()
    assert bool(asked) == (loss != "softmax")
    assert sum(asked) < ITEMS
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rows_that_no_batch_reads_stay_and_those_that_are_read_follow_adam(tmp_path):
    """A waiting row neither decays nor loses its moments; a read one follows its own.

    By hand: Adam in float64 from the gradients, which are Adam's first moment's differences.
    """
    run = run_of(tmp_path, lazy=True, taught=False, decay=1e-2)
    state, step, inputs, constants = stepping(run)
    rate = run.train.learning_rate
    table = table_of(jax.device_get(state.params)).astype(float)
    mu, nu = (np.zeros_like(table) for _ in range(2))
    waited = 0
    for count, each in enumerate(inputs, start=1):
        state, _ = step(state, *place_inputs(MESH, *each), constants)
        new_mu, new_nu = (part.astype(float) for part in moments(jax.device_get(state)))
        read = (new_mu != mu).any(axis=1)
        waited += (~read & (mu != 0).any(axis=1)).sum()
        gradient = (new_mu - 0.9 * mu)[read] / 0.1
        np.testing.assert_allclose(
            new_nu[read], 0.999 * nu[read] + 0.001 * gradient**2, rtol=1e-3, atol=1e-9
        )
        np.testing.assert_array_equal(new_nu[~read], nu[~read])
        mu, nu = new_mu, new_nu
        step_size = (mu / (1 - 0.9**count)) / (np.sqrt(nu / (1 - 0.999**count)) + 1e-8)
        table[read] -= rate * step_size[read]
        np.testing.assert_allclose(table_of(jax.device_get(state.params)), table, atol=1e-5)
    assert waited > 0


@pytest.mark.parametrize("student", ["sasrec", "gru4rec"])
def test_item_0_waits_like_the_others_though_padding_holds_its_id(tmp_path, student):
    """Padding doesn't make item 0 decay in steps that don't read it."""
    rng = np.random.default_rng(0)
    histories = [(1 + rng.integers(0, READ, n)).tolist() for n in rng.integers(3, 9, 40)]
    world = from_histories(histories, ITEMS)
    # One draw a step, which is never item 0 with this seed.
    config = student_config(student=student, loss="uniform_softmax", num_negatives=1)
    run = make_run(world, tmp_path, student=config)
    train = dataclasses.replace(run.train, lazy_adam=True, weight_decay=1e-2)
    taught = {"distill": DistillConfig(), "teachers": RandomTeachers(world, side="tables")}
    run = dataclasses.replace(run, train=train, threshold=1.3, **taught)
    state, step, inputs, constants = stepping(run)
    before = table_of(jax.device_get(state.params))
    for each in inputs:
        assert (each[0].rows.segment_ids == 0).any()
        state, _ = step(state, *place_inputs(MESH, *each), constants)
    after = table_of(jax.device_get(state.params))
    np.testing.assert_array_equal(after[0], before[0])
    assert not any(moment[0].any() for moment in moments(state))
    assert (after[1:READ] != before[1:READ]).any()


def test_a_step_holds_no_array_as_large_as_the_table_but_the_tables(tmp_path):
    """The program writes the table and its two moments once each, and no dense gradient."""
    sizes = {}
    for lazy in (False, True):
        state, step, inputs, constants = stepping(run_of(tmp_path, lazy=lazy))
        program = step.lower(state, *inputs[0], constants).as_text()
        sizes[lazy] = program.count(f"-> tensor<{ITEMS}x12xf32>")
    # The table and its two moments are written once each.
    assert sizes[True] == 3 < sizes[False]


def test_items_are_needed_once_and_padding_is_past_the_end(tmp_path):
    """Each id comes once and in order, so no row is written twice."""
    run = run_of(tmp_path, lazy=True)
    batch, distill = next(iter(distill_inputs(run, training_batches(run).epoch(0))))
    drawn = np.array([499, 499, 3])
    ids = np.asarray(needed_items(batch, distill, drawn, ITEMS))
    real = {*batch.rows.item_seq[batch.rows.segment_ids > 0].tolist(), 499, 3}
    real |= set(batch.targets[batch.is_instance].tolist())
    real |= set(distill.columns.candidates[distill.columns.valid.any(axis=0)].tolist())
    assert ids[ids < ITEMS].tolist() == sorted(real)
    assert len(np.unique(ids)) == len(ids)
    assert ids.tolist() == sorted(ids.tolist())


def test_rows_come_back_to_their_place():
    """Other parameters of the same name keep all rows, and padding overwrites none."""
    tree = {
        "item_embedding": {"table": np.arange(10.0).reshape(5, 2)},
        "position_embedding": {"table": np.arange(6.0).reshape(3, 2)},
        "other_item_embedding": {"table": np.arange(5.0).reshape(5, 1)},
        "second": {"item_embedding": {"table": np.arange(5.0).reshape(5, 1)}},
        "count": np.zeros(()),
    }
    tables, ids = ItemTables((TABLE,), 5), np.array([1, 3, 5, 6])
    rows = take_rows(jax.tree.map(jax.numpy.asarray, tree), tables, ids)
    assert rows["item_embedding"]["table"].tolist()[:2] == [[2, 3], [6, 7]]
    assert rows["position_embedding"]["table"].shape == (3, 2)
    assert rows["other_item_embedding"]["table"].shape == (5, 1)
    assert rows["second"]["item_embedding"]["table"].shape == (5, 1)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, rows)
    back = put_rows(jax.tree.map(jax.numpy.asarray, tree), doubled, tables, ids)
    wanted = [[0, 1], [4, 6], [4, 5], [12, 14], [8, 9]]
    assert back["item_embedding"]["table"].tolist() == wanted
    assert back["position_embedding"]["table"].tolist() == [[0, 2], [4, 6], [8, 10]]
    assert back["other_item_embedding"]["table"].ravel().tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("student", "distill", "message"),
    [
        ({"student": "lightgcn", "loss": "bpr"}, None, "--student=lightgcn, expected sasrec"),
        ({}, None, "--loss=softmax, which reads every item"),
        ({"loss": "gbce"}, DistillConfig(negatives="catalogue"), "--negatives=catalogue"),
    ],
)
def test_what_reads_every_item_is_refused(student, distill, message):
    """The error names the student, the loss or the negatives that read every item."""
    with pytest.raises(UserError, match=message):
        check_lazy(student_config(**student), TrainConfig(lazy_adam=True), distill)
    check_lazy(student_config(**student), TrainConfig(), distill)
