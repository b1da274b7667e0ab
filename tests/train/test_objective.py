import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import Batch
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.rows import ItemRows
from prmkd_jax.students.config import LOSSES, StudentConfig
from prmkd_jax.students.registry import loss_name
from prmkd_jax.train import objective
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.objective import Instances, draw_items, loss_of, own_losses
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.run import fresh_student
from prmkd_jax.train.sharding import make_mesh, place
from prmkd_jax.train.step import init_state, make_train_step
from tests.worlds import (
    distilled,
    facts,
    from_histories,
    make_run,
    random_world,
    same_bits,
    student_config,
    task_of,
)
from tests.xla import AS_OUTSIDE

WORLD = random_world(users=30, items=25)
TASK = task_of(WORLD)
FACTS = facts(WORLD)
KEY = jax.random.key(7)
RNG = np.random.default_rng(0)
DRAWN = 6
SMALL = {"num_negatives": 16, "mlp_sizes": (8, 6)}


class ScoreAlone:
    """A student of which a loss may ask nothing but the score."""

    def queries(self, rows, rngs=None):
        """Fails: no loss asks."""
        raise AssertionError("a loss asked for more than the score")

    def items(self):
        """Fails: no loss asks."""
        raise AssertionError("a loss asked for more than the score")


class Scorer(ScoreAlone):
    """Its score is no dot product."""

    def score(self, queries, items):
        """Not a dot product, so that nobody takes it for one."""
        return queries @ items.T + jnp.sin(queries.sum(-1))[:, None] * items[:, 0]


class Dot(ScoreAlone):
    """A student that is a dot product."""

    def score(self, queries, items):
        """All of them."""
        return queries @ items.T


def a_batch() -> Batch:
    """The first eight training instances."""
    instances = TASK.split.train[:8]
    users = WORLD.interactions.users[instances].reshape(2, 4)
    none = np.zeros_like(users)
    rows = PackedRows(none, none, none, users, none)
    return Batch(rows, instances, WORLD.interactions.items[instances], np.ones(8, bool))


BATCH = a_batch()
USERS = BATCH.rows.users.reshape(-1)
QUERIES = RNG.normal(size=(8, 5)).astype(np.float32)
ITEMS = RNG.normal(size=(25, 5)).astype(np.float32)
LOGITS = np.asarray(Scorer().score(QUERIES, ITEMS), dtype=float)


def losses(loss, student=None, key=KEY, **changes):
    config = StudentConfig(**{"loss": loss, "num_negatives": DRAWN, **changes})
    prepared = loss_of(config).prepare(TASK, FACTS)

    @jax.jit
    def run(queries, items):
        batch = Instances(queries, items, jnp.asarray(BATCH.targets), jnp.asarray(USERS))
        return own_losses(config, student or Scorer(), batch, prepared, key)

    return np.asarray(run(QUERIES, ITEMS))


def trained_on(user: int) -> set[int]:
    histories = WORLD.interactions
    return set(histories.items[histories.indptr[user] : TASK.split.train_end[user]].tolist())


DRAWERS = {
    "sampled_softmax": (objective, "popular_items"),
    "uniform_softmax": (jax.random, "randint"),
    "gbce": (jax.random, "randint"),
    "bpr": (objective, "unseen_items"),
}


def draws(loss, monkeypatch, **changes):
    """The losses, which items they drew, and from which key."""
    seen, (module, name) = [], DRAWERS[loss]
    function = getattr(module, name)

    def watched(key, *arguments):
        found = function(key, *arguments)
        jax.debug.callback(lambda *x: seen.append(x), found, jax.random.key_data(key))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(module, name, watched)
        values = losses(loss, **changes)
    jax.effects_barrier()
    return values, *map(np.asarray, seen[0])


def test_softmax_is_over_all_items():
    """It draws no negatives and equals the formula in each row."""
    for row, logits in enumerate(LOGITS):
        expected = math.log(math.fsum(np.exp(logits))) - logits[BATCH.targets[row]]
        assert losses("softmax")[row] == pytest.approx(expected, rel=1e-5)


def test_sampled_softmax_equals_float64(monkeypatch):
    """The chances come from training items alone, and a hit on the target is left out."""
    values, drawn, _ = draws("sampled_softmax", monkeypatch)
    trained = (
        np.arange(len(WORLD.interactions.items)) < TASK.split.train_end[WORLD.interactions.users]
    )
    counts = 1 + np.bincount(WORLD.interactions.items[trained], minlength=25)
    assert drawn.shape == (DRAWN,)
    assert (drawn == BATCH.targets[:, None]).any()
    for row, logits in enumerate(LOGITS):
        target = BATCH.targets[row]
        others = [
            math.exp(logits[j]) / (DRAWN * counts[j] / counts.sum()) for j in drawn if j != target
        ]
        own = math.exp(logits[target])
        expected = -math.log(own / (own + math.fsum(others)))
        assert values[row] == pytest.approx(expected, rel=1e-5)


def test_uniform_softmax_equals_float64_and_draws_among_all_items(monkeypatch):
    """Scores aren't corrected, and a hit on the target is left out."""
    values, drawn, _ = draws("uniform_softmax", monkeypatch)
    assert drawn.shape == (DRAWN,)
    for row, logits in enumerate(LOGITS):
        target = BATCH.targets[row]
        others = math.fsum(math.exp(logits[j]) for j in drawn if j != target)
        own = math.exp(logits[target])
        assert values[row] == pytest.approx(-math.log(own / (own + others)), rel=1e-5)
    many = draws("uniform_softmax", monkeypatch, num_negatives=1000)[1]
    np.testing.assert_allclose(np.bincount(many, minlength=25), 40, atol=25)


def test_bpr_equals_float64_and_draws_what_the_user_has_not_trained_on(monkeypatch):
    """Only the user's training items are left out, so a test item may be drawn."""
    values, drawn, _ = draws("bpr", monkeypatch)
    for row, logits in enumerate(LOGITS):
        margin = logits[BATCH.targets[row]] - logits[drawn[row]]
        assert values[row] == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-5)
        assert drawn[row] not in trained_on(USERS[row])
    seen = loss_of(StudentConfig(loss="bpr")).prepare(TASK, FACTS)
    assert seen.count.tolist() == [len(trained_on(user)) for user in range(WORLD.num_users)]


def test_the_values_at_the_targets_are_those_of_their_slots():
    """Where only some slots predict, each instance has the user of its own slot."""
    slots = np.arange(1, 16, 2)
    users = np.full(16, USERS.max() + 1)
    users[slots] = USERS
    sparse = BATCH._replace(slots=slots)
    np.testing.assert_array_equal(sparse.at_targets(users), USERS)
    np.testing.assert_array_equal(BATCH.at_targets(USERS), USERS)


def test_gbce_equals_float64_and_draws_among_all_items(monkeypatch):
    """A hit on the target is left out, and every item is drawn about equally often."""
    values, drawn, _ = draws("gbce", monkeypatch)
    assert drawn.shape == (DRAWN,)
    beta = 1 - 0.75 * (1 - DRAWN / 24)
    for row, logits in enumerate(LOGITS):
        target = BATCH.targets[row]
        others = [math.log1p(math.exp(logits[j])) for j in drawn if j != target]
        own = beta * math.log1p(math.exp(-logits[target]))
        assert values[row] == pytest.approx((own + math.fsum(others)) / (1 + len(others)), rel=1e-5)
    many = draws("gbce", monkeypatch, num_negatives=1000)[1]
    np.testing.assert_allclose(np.bincount(many, minlength=25), 40, atol=25)


def test_gbce_has_the_rate_of_its_draws():
    """β follows from the number of draws and items, and a hit doesn't count."""
    flat = Instances(np.zeros_like(QUERIES), jnp.asarray(ITEMS), BATCH.targets, USERS)
    config = StudentConfig(loss="gbce", num_negatives=DRAWN, gbce_t=0.6)
    found = own_losses(config, Scorer(), flat, None, KEY)
    # All scores 0: (β + N) log 2 / (1 + N), less a draw where it hits the row's target.
    beta = 1 - 0.6 * (1 - DRAWN / 24)
    possible = [(beta + n) * math.log(2) / (1 + n) for n in range(DRAWN + 1)]
    for value in np.asarray(found):
        assert min(abs(value - p) for p in possible) < 1e-6
    assert np.isclose(found, possible[-1]).any()


def test_draws_come_from_the_key():
    """One key gives the same negatives again, and another key gives others."""
    for loss in ("sampled_softmax", "uniform_softmax", "gbce", "bpr"):
        first = losses(loss)
        np.testing.assert_array_equal(first, losses(loss))
        assert (first != losses(loss, key=jax.random.key(8))).any()


def test_no_dropout_mask_shares_the_draws_key(monkeypatch):
    """The draws of every loss have another key than each of 200 masks."""
    rngs = nnx.Rngs(KEY)
    # A draw splits its key, and a key's parts are the masks' keys.
    taken = [KEY, *(rngs() for _ in range(200))]
    taken = {tuple(jax.random.key_data(key).tolist()) for key in taken}
    assert len(taken) == 201
    for loss in DRAWERS:
        assert tuple(draws(loss, monkeypatch)[2].tolist()) not in taken


def test_bpr_adds_a_students_own_l2():
    """BPR adds embedding_l2 times the student's norms, and no other loss does."""

    class Heavy(Scorer):
        def embedding_norms(self, users, positives, negatives):
            return 100.0 * users + positives

    extra = losses("bpr", Heavy(), embedding_l2=0.01) - losses("bpr")
    np.testing.assert_allclose(extra, 0.01 * (100 * USERS + BATCH.targets), rtol=1e-3, atol=1e-4)
    for loss in ("softmax", "sampled_softmax", "uniform_softmax", "gbce"):
        np.testing.assert_array_equal(losses(loss, Heavy()), losses(loss))


def test_bpr_reads_a_students_own_l2_of_some_rows_at_these_rows():
    """Where a table has some rows alone, as under --lazy_adam, ids become places in it."""
    config = StudentConfig(loss="bpr", embedding_l2=0.01)
    prepared = loss_of(config).prepare(TASK, FACTS)
    norms = np.random.default_rng(3).random(25).astype(np.float32)

    class Heavy(Scorer):
        def __init__(self, rows):
            self.rows = rows

        def embedding_norms(self, users, positives, negatives):
            return self.rows[positives] + 10 * self.rows[negatives]

    def of(student, items):
        batch = Instances(QUERIES, items, jnp.asarray(BATCH.targets), USERS)
        return np.asarray(own_losses(config, student, batch, prepared, KEY))

    drawn = draw_items(config, prepared, jnp.asarray(USERS), 25, KEY)
    ids = np.unique(np.concatenate([BATCH.targets, drawn]))
    assert len(ids) < 25
    some = of(Heavy(jnp.asarray(norms[ids])), ItemRows(jnp.asarray(ITEMS[ids]), ids, 25))
    np.testing.assert_allclose(some, of(Heavy(jnp.asarray(norms)), jnp.asarray(ITEMS)), rtol=1e-6)


@pytest.mark.parametrize("loss", ["sampled_softmax", "bpr"])
def test_a_loss_that_was_not_prepared_is_an_error(loss):
    """Sampled softmax and BPR don't silently train by another loss."""
    config = StudentConfig(loss=loss)
    batch = Instances(QUERIES, jnp.asarray(ITEMS), BATCH.targets, USERS)
    with pytest.raises(ValueError, match=f"{loss} needs"):
        own_losses(config, Scorer(), batch, None, KEY)


def test_every_choice_of_the_flag_is_a_loss():
    assert tuple(objective.LOSSES) == LOSSES


def test_a_user_who_has_everything_is_refused():
    """One line names the user, who has no item left to draw as the negative."""
    world = from_histories([[0, 1, 2, 0, 0], [2, 1, 0, 1, 2]], 3)
    with pytest.raises(UserError) as error:
        loss_of(StudentConfig(loss="bpr")).prepare(task_of(world), facts(world))
    assert str(error.value) == (
        "--loss=bpr: user 'u0': found all 3 items in the training history, expected one to draw "
        "as the negative"
    )


def test_the_default_is_the_students_own():
    """It is sampled softmax for DeepFM and softmax for SASRec and FM; a flag changes it."""
    for name, expected in (("sasrec", "softmax"), ("fm", "softmax"), ("deepfm", "sampled_softmax")):
        assert loss_name(StudentConfig(student=name)) == expected
        assert loss_name(StudentConfig(student=name, loss="bpr")) == "bpr"


@pytest.mark.parametrize(
    ("student", "loss"),
    [("lightgcn", "bpr"), ("deepfm", None)],
)
def test_one_program_serves_an_epoch_plain_and_distilled(tmp_path, student, loss):
    """With a distillation weight of 0, both students end in the same bits."""
    run = make_run(WORLD, tmp_path, student=student_config(student=student, loss=loss, **SMALL))
    own = []
    for changes in ({}, distilled(run, distill_weight=0.0)):
        one = dataclasses.replace(run, **changes)
        graphdef, params = fresh_student(one)
        optimizer = make_optimizer(one.train)
        mesh = make_mesh(1)
        step = make_train_step(graphdef, optimizer, one.distill, one.student, mesh)
        state = place(mesh, init_state(params, optimizer, one.seed))
        constants = place(mesh, run_constants(one))
        batches = list(distill_inputs(one, training_batches(one).epoch(0)))
        # Equal bits need the fusions that users have and the tests leave out (`conftest.py`).
        program = step.lower(state, *batches[0], constants)
        program = program.compile(AS_OUTSIDE)
        exact = jax.tree.map(jnp.copy, state)
        for inputs in batches:
            exact, _ = program(exact, *inputs, constants)
            state, metrics = step(state, *inputs, constants)
        assert step._cache_size() == 1
        chex.assert_tree_all_finite(metrics)
        own.append(jax.device_get(exact))
    assert same_bits(*own)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_puts_the_targets_first(loss):
    """Descent by its gradient ranks each target above all of its rivals."""
    config = StudentConfig(loss=loss, num_negatives=DRAWN)
    prepared = loss_of(config).prepare(TASK, FACTS)

    def total(logits, key):
        # Items are unit vectors, so the queries are the logits.
        items = jnp.eye(25, dtype=jnp.float32)
        batch = Instances(logits, items, jnp.asarray(BATCH.targets), jnp.asarray(USERS))
        return own_losses(config, Dot(), batch, prepared, key).sum()

    def descend(logits, key):
        return logits - jax.grad(total)(logits, key), None

    start = jax.random.normal(jax.random.key(1), (8, 25))
    end = jax.jit(lambda x: jax.lax.scan(descend, x, jax.random.split(KEY, 300))[0])(start)
    for row, (user, target) in enumerate(zip(USERS, BATCH.targets, strict=True)):
        # BPR says nothing of what the user has trained on.
        left_out = [target, *(trained_on(user) if loss == "bpr" else ())]
        rivals = np.delete(np.arange(25), left_out)
        assert (np.asarray(end)[row, rivals] < end[row, target]).all()
