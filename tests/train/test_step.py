import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.popularity import popularity_groups
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students import student
from prmkd_jax.students.config import STUDENT_NAMES
from prmkd_jax.students.sasrec import SASRec
from prmkd_jax.students.student import create_student
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import INSTANCES_A_MEASURE, init_state, make_train_step
from tests.distill import reference as eq
from tests.students import reference
from tests.worlds import RandomTeachers, facts, make_run, random_world, same_bits, student_config
from tests.xla import AS_OUTSIDE

WORLD = random_world()
MESH = make_mesh(5)
KINDS = ("plain", "tables", "scores")
THRESHOLD = 1.3


def prepared(tmp_path, kind="plain", dropout=0.3, student="sasrec", **distillation):
    """A run, its compiled step, its first state and all its batches."""
    config = student_config(student=student, dropout=dropout)
    run = make_run(WORLD, tmp_path, student=config)
    if kind != "plain":
        teachers = RandomTeachers(WORLD, side=kind)
        config = DistillConfig(**distillation)
        run = dataclasses.replace(run, distill=config, teachers=teachers, threshold=THRESHOLD)
    graphdef, state = create_student(run.student, facts(WORLD), run.seed)
    optimizer = make_optimizer(run.train)
    params = reference.random_params(nnx.to_pure_dict(state), 1)
    state = place(MESH, init_state(params, optimizer, run.seed))
    compiled = make_train_step(graphdef, optimizer, run.distill, run.student, MESH)
    step = Step(compiled, place(MESH, run_constants(run)))
    return run, step, state, list(distill_inputs(run, training_batches(run).epoch(0)))


class Step(NamedTuple):
    """A compiled step with a run's constants."""

    compiled: Any
    constants: Any

    def __call__(self, state, batch, distill):
        """One step."""
        return self.compiled(state, batch, distill, self.constants)


def trained(step, state, inputs):
    for each in inputs:
        state, _ = step(state, *place_inputs(MESH, *each))
    return jax.device_get(state)


def logits_by_hand(run, params, batch: Batch):
    """The student's logits [V] of every real row, in float64: (row, logits)."""
    histories = run.task.dataset.interactions
    table = params["item_embedding"]["table"]
    for row in np.flatnonzero(batch.is_instance):
        instance = int(batch.instance_ids[row])
        first = histories.indptr[histories.users[instance]]
        seen = histories.items[first:instance].tolist()
        vector = reference.user_vector(params, seen, run.student.num_heads, run.window)
        yield row, table @ vector


def columns_by_hand(run, batch: Batch, row: int) -> tuple[list[int], list[bool], list[bool]]:
    """The columns' items, which of them count for the row's user, and which the teachers score."""
    histories, split, config = run.task.dataset.interactions, run.task.split, run.distill
    items = batch.targets[batch.is_instance].tolist()
    if config.negatives == "catalogue":
        items = range(run.task.dataset.num_items)
    elif config.deduplicate_columns:
        items = sorted(set(items))
    instance = batch.instance_ids[row]
    user = histories.users[instance]
    end = instance if config.seen_items == "unwanted" else split.train_end[user]
    known = set(histories.items[histories.indptr[user] : end].tolist()) - {batch.targets[row]}
    new, every = [item not in known for item in items], [True] * len(items)
    valid = new if config.seen_items == "out" else every
    return list(items), valid, every if config.seen_items == "scored" else new


def known_by_hand(run, batch: Batch, row: int) -> int:
    """The instance before which the teachers have read the row's user."""
    histories, instance = run.task.dataset.interactions, int(batch.instance_ids[row])
    user = histories.users[instance]
    whole = run.distill.teacher_history == "whole"
    # Two items are no validation instance.
    long = histories.indptr[user + 1] - histories.indptr[user] >= 3
    return histories.indptr[user + 1] - 2 if whole and long else instance


def test_plain_loss_and_gradient_equal_a_float64_computation(tmp_path):
    """Padded rows don't count, and the gradient norm agrees as well."""
    run, step, state, inputs = prepared(tmp_path, dropout=0.0)
    batch, _ = inputs[-1]
    assert not batch.is_instance.all()
    params = reference.to_torch(jax.device_get(state.params))
    losses = [
        logits.logsumexp(0) - logits[batch.targets[row]]
        for row, logits in logits_by_hand(run, params, batch)
    ]
    loss = sum(losses) / len(losses)
    loss.backward()
    squares = [np.square(g).sum() for g in jax.tree.leaves(reference.gradients(params))]
    _, metrics = step(state, *place_inputs(MESH, batch, None))
    assert metrics.num_instances == len(losses) == batch.is_instance.sum()
    assert float(metrics.loss) == pytest.approx(loss.item(), rel=1e-5)
    assert float(metrics.cross_entropy) == float(metrics.loss)
    assert float(metrics.distillation) == 0
    assert metrics.teachers is None
    assert float(metrics.gradient_norm) == pytest.approx(np.sqrt(sum(squares)), rel=1e-4)


def distilled_by_hand(run, batch: Batch, row: int, logits):
    """Eq. 1–6 of one row, from the student's logits [V]."""
    teachers, config = run.teachers, run.distill
    columns, valid, scored = columns_by_hand(run, batch, row)
    read = np.array([known_by_hand(run, batch, row)])
    return eq.distill_user(
        student=[float(logits[item]) for item in columns],
        teachers=teachers.logits(read, np.array(columns))[:, 0],
        available=[True] * 3,
        valid=valid,
        target_column=columns.index(batch.targets[row]),
        weights=teachers.default_weights,
        threshold=THRESHOLD,
        config=config,
        group=popularity_groups(run.task.training_counts, config.unkd_groups)[columns],
        scored=scored,
    )


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("tables", {}),
        ("tables", {"negatives": "catalogue"}),
        ("tables", {"deduplicate_columns": False}),
        ("tables", {"seen_items": "scored"}),
        ("tables", {"seen_items": "unwanted"}),
        ("scores", {"seen_items": "unwanted"}),
        ("tables", {"seen_items": "unwanted", "negatives": "catalogue", "kl": "forward"}),
        ("tables", {"kd_include_positive": False}),
        ("tables", {"method": "unkd", "unkd_groups": 3}),
        ("tables", {"teacher_history": "whole"}),
        ("scores", {"teacher_history": "whole"}),
    ],
)
def test_distilled_loss_equals_a_float64_computation(tmp_path, kind, changes):
    """The teachers' columns, rows, masks and weights are those of eq. 1–6, for each option."""
    run, step, state, inputs = prepared(tmp_path, kind, dropout=0.0, **changes)
    # A user of two items has no whole training part behind which a teacher was asked.
    short = np.flatnonzero(WORLD.interactions.lengths == 2)
    users = WORLD.interactions.users
    batch, distill = next(
        each
        for each in inputs
        if np.isin(users[each[0].instance_ids[each[0].is_instance]], short).any()
    )
    assert not batch.is_instance.all()
    params, rows = reference.to_torch(jax.device_get(state.params)), []
    for row, logits in logits_by_hand(run, params, batch):
        logits = logits.detach().tolist()
        user = distilled_by_hand(run, batch, row, logits)
        rows.append((row, eq.cross_entropy(logits, batch.targets[row]), user))
    ce = np.mean([loss for _, loss, _ in rows])
    kd = np.mean([user["loss"] for _, _, user in rows])
    _, metrics = step(state, *place_inputs(MESH, batch, distill))
    assert float(metrics.cross_entropy) == pytest.approx(ce, rel=1e-5)
    assert float(metrics.distillation) == pytest.approx(kd, rel=1e-5)
    assert float(metrics.loss) == pytest.approx(ce + 5.0 * kd, rel=1e-5)
    every = 1 if run.distill.negatives == "catalogue" else INSTANCES_A_MEASURE
    measured = [user for row, _, user in rows if row % every == 0]
    assert metrics.num_measured == len(measured)
    for field in ("excluded", "weight", "kl"):
        expected = np.mean([user[field] for user in measured], axis=0)
        np.testing.assert_allclose(getattr(metrics.teachers, field), expected, rtol=1e-4)
    if not changes:
        assert 0.1 < metrics.teachers.excluded.sum() < 0.9


@pytest.mark.parametrize("student", STUDENT_NAMES)
def test_every_student_is_distilled_by_the_same_equations(tmp_path, student):
    """The distillation is the mean by hand over all rows, and it changes the student."""
    run, step, state, inputs = prepared(tmp_path, "tables", dropout=0.0, student=student)
    batch, distill = inputs[0]
    graphdef, _ = create_student(run.student, facts(WORLD), run.seed)

    def scored(params):
        model = nnx.merge(graphdef, nnx.State(params))
        return model.score(batch.at_targets(model.queries(batch.rows)), model.items())

    logits = np.asarray(jax.jit(scored)(state.params))
    rows = np.flatnonzero(batch.is_instance)
    kd = [distilled_by_hand(run, batch, row, logits[row])["loss"] for row in rows]
    after, metrics = step(state, *place_inputs(MESH, batch, distill))
    assert float(metrics.distillation) == pytest.approx(np.mean(kd), rel=1e-4)
    _, step, state, _ = prepared(tmp_path, dropout=0.0, student=student)
    plain, _ = step(state, *place_inputs(MESH, batch, None))
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), after.params, plain.params)
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_scores_from_elsewhere_train_the_same_student(tmp_path):
    """Their losses are those of the teachers' tables."""
    losses = []
    for side in ("tables", "scores"):
        _, step, state, inputs = prepared(tmp_path, side)
        losses.append([])
        for batch, distill in inputs:
            state, metrics = step(state, *place_inputs(MESH, batch, distill))
            losses[-1].append(float(metrics.loss))
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "tables"])
def test_a_students_own_loss_is_added_once(tmp_path, monkeypatch, kind):
    """It is in the loss and the gradient once, plain and distilled."""

    def auxiliary(self, rows, rngs):
        return 0.25 * jax.numpy.square(self.position_embedding.table[...]).sum()

    run, step, state, inputs = prepared(tmp_path, kind, dropout=0.0)
    placed = place_inputs(MESH, *inputs[0])
    with_it = type("WithAuxiliary", (SASRec,), {"auxiliary": auxiliary})
    monkeypatch.setattr(student, "student_class", lambda name: with_it)
    graphdef = create_student(run.student, facts(WORLD), run.seed)[0]
    optimizer = make_optimizer(run.train)
    other_step = step._replace(
        compiled=make_train_step(graphdef, optimizer, run.distill, run.student, MESH)
    )
    table = np.asarray(state.params["position_embedding"]["table"], dtype=float)
    copy = jax.tree.map(jax.numpy.copy, state)
    (before, plain), (after, found) = (
        one(s, *placed) for one, s in ((step, state), (other_step, copy))
    )
    assert float(found.loss - plain.loss) == pytest.approx(0.25 * (table**2).sum(), rel=1e-4)
    assert float(found.cross_entropy) == pytest.approx(float(plain.cross_entropy), rel=1e-6)
    moments = [s.opt_state[1][0].mu["position_embedding"]["table"] for s in (before, after)]
    np.testing.assert_allclose((moments[1] - moments[0]) / 0.1, 0.5 * table, atol=1e-4)


def as_users_compile(step, state, inputs):
    """The same with the fusions of XLA's default, which the tests leave out (`conftest.py`)."""
    program = step.compiled.lower(state, *place_inputs(MESH, *inputs[0]), step.constants)
    compiled = program.compile(AS_OUTSIDE)
    return step._replace(compiled=compiled), state, inputs


def test_weight_zero_is_the_plain_student_bit_for_bit(tmp_path):
    """Base and distilled student differ by the distillation alone."""
    plain = trained(*as_users_compile(*prepared(tmp_path)[1:]))
    zero = prepared(tmp_path, "tables", distill_weight=0.0)
    distilled = trained(*as_users_compile(*zero[1:]))
    other = trained(*prepared(tmp_path, "tables")[1:])
    assert same_bits(plain, distilled)
    assert not same_bits(plain.params, other.params)


@pytest.mark.parametrize("kind", KINDS)
def test_one_program_serves_every_batch(tmp_path, kind):
    """Two epochs, a padded last batch and another seed share one compiled step."""
    run, step, state, inputs = prepared(tmp_path, kind)
    other_seed = create_student(run.student, facts(WORLD), run.seed + 1)[0]
    optimizer = make_optimizer(run.train)
    again = make_train_step(other_seed, optimizer, run.distill, run.student, MESH)
    assert again is step.compiled
    step.compiled.clear_cache()  # other tests share it
    assert not inputs[-1][0].is_instance.all()
    inputs += distill_inputs(run, training_batches(run).epoch(1))
    assert len(inputs) > 4
    trained(step, state, inputs)
    assert step.compiled._cache_size() == 1


@pytest.mark.parametrize("kind", ["plain", "tables"])
def test_padded_rows_influence_nothing(tmp_path, kind):
    """Slots without an instance reach no loss, no measurement and no gradient."""
    _, step, state, inputs = prepared(tmp_path, kind)
    batch, distill = inputs[-1]
    rng = np.random.default_rng(0)
    empty = ~batch.is_instance
    padding = batch.rows.segment_ids == 0
    assert padding.any()

    def scrambled(values, where, bound):
        noise = rng.integers(0, bound, values.shape).astype(values.dtype)
        return np.where(where.reshape(-1, *[1] * (values.ndim - 1)), noise, values)

    rows = batch.rows._replace(
        item_seq=np.where(padding, rng.integers(0, 40, padding.shape), batch.rows.item_seq),
        positions=np.where(padding, 3, batch.rows.positions),
    )
    other = batch._replace(
        rows=rows._replace(item_seq=rows.item_seq.astype(np.int32)),
        instance_ids=scrambled(batch.instance_ids, empty, 50),
        targets=scrambled(batch.targets, empty, 40),
    )
    changed = distill
    if distill is not None:
        columns = distill.columns
        unused = ~columns.valid.any(axis=0)
        assert unused.any()
        changed = distill._replace(
            teacher_instance_ids=scrambled(distill.teacher_instance_ids, empty, 50),
            columns=columns._replace(
                candidates=scrambled(columns.candidates, unused, 40),
                target_column=scrambled(columns.target_column, empty, 8),
                valid=scrambled(columns.valid, empty, 2),
            ),
        )
    copy = jax.tree.map(jax.numpy.copy, state)
    one, two = (
        step(s, *place_inputs(MESH, b, d))
        for s, b, d in ((state, batch, distill), (copy, other, changed))
    )
    assert same_bits(jax.device_get(one), jax.device_get(two))


def test_state_is_donated(tmp_path):
    """No second copy of parameters and moments stays on the device."""
    _, step, state, inputs = prepared(tmp_path)
    new, _ = step(state, *place_inputs(MESH, *inputs[0]))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(new))


def test_dropout_keys_come_from_seed_and_step(tmp_path):
    """Each step has masks of its own, which a resumed run can draw again."""
    _, step, state, inputs = prepared(tmp_path)

    def loss(**changes):
        changed = jax.tree.map(jax.numpy.copy, state.replace(**changes))
        return float(step(changed, *place_inputs(MESH, *inputs[0]))[1].loss)

    other_key = place(MESH, jax.random.key_data(jax.random.key(99)))
    assert loss() == loss()
    assert len({loss(), loss(step=place(MESH, np.int32(1))), loss(key=other_key)}) == 3
    after, _ = step(jax.tree.map(jax.numpy.copy, state), *place_inputs(MESH, *inputs[0]))
    assert int(after.step) == 1
    np.testing.assert_array_equal(after.key, state.key)
    expected = jax.random.key_data(jax.random.key(3))
    np.testing.assert_array_equal(state.key, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_step_moves_nothing_between_host_and_device(tmp_path, kind):
    """A step whose inputs are placed sends no constant and no number."""
    _, step, state, inputs = prepared(tmp_path, kind)
    placed = [place(MESH, each) for each in inputs[:3]]
    state, _ = step(state, *placed[0])
    with jax.transfer_guard("disallow"):
        for batch, distill in placed[1:]:
            state, metrics = step(state, batch, distill)
    assert np.isfinite(metrics.loss)


def test_tree_mode_trains_the_same(tmp_path):
    """A distilled student ends in the same bits in Flax's coming default."""
    with nnx.set_graph_mode(False):
        found = trained(*prepared(tmp_path, "tables")[1:])
    assert same_bits(found, trained(*prepared(tmp_path, "tables")[1:]))
