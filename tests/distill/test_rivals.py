"""PRM-KD's rivals and controls against float64 formulas, through the one path they share."""

import dataclasses
import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from prmkd_jax.distill import per_user as distill
from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.controls import item_permutation, label_target
from prmkd_jax.distill.losses import entropy
from prmkd_jax.distill.per_user import UserInput, distill_batch
from prmkd_jax.distill.rivals import (
    ranking_distillation,
    relaxed_ranking,
    top_columns,
    unbiased_pairs,
)
from prmkd_jax.distill.scores import rank_scores
from tests.distill import reference

USERS, COLUMNS, GROUPS = 7, 13, 3
# Fewer top items than columns, so that there are others; short temperatures, so that ranks count.
CONFIGS = {
    name: DistillConfig(
        method=name,
        rank_temperature=4.0,
        rd_top=4,
        rd_position=1.5,
        rd_discrepancy=0.2,
        rrd_top=5,
        unkd_groups=GROUPS,
        unkd_temperature=3.0,
    )
    # The others are these with other weights or other teachers.
    for name in (
        "prmkd",
        "best_teacher",
        "rank_ensemble",
        "label_smoothing",
        "rd",
        "rrd",
        "unkd",
    )
}
# From the joint scores on their number of teachers is immaterial.
ORDERS = ("rd", "rrd", "unkd")
# The tests compile much and compute little.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


class Case(NamedTuple):
    """The arguments of `distill_batch` but for the configuration."""

    logits: np.ndarray
    users: UserInput
    weights: np.ndarray
    threshold: np.ndarray


def random_case(seed: int, teachers: int) -> Case:
    """User 0 has everything, 1 only its target, 2 no teacher, 3 no column; garbage where masked."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, COLUMNS, USERS).astype(np.int32)
    valid = rng.random((USERS, COLUMNS)) < 0.8
    valid[np.arange(USERS), target] = True
    valid[0], valid[1], valid[3] = True, np.arange(COLUMNS) == target[1], False
    available = rng.random((USERS, teachers)) < 0.8
    available[0], available[2] = True, False
    scores = rng.normal(size=(USERS, 1, COLUMNS)) + rng.normal(size=(USERS, teachers, COLUMNS))
    known = available[:, :, None] & valid[:, None, :]
    scores = np.where(known, scores, rng.choice([-1e9, 1e9, 0.0, 30.0], size=scores.shape))
    logits = rng.normal(scale=2.0, size=valid.shape)
    logits = np.where(valid, logits, rng.choice([-1e9, 1e9, 0.0, 30.0], size=valid.shape))
    group = np.tile(rng.integers(0, GROUPS, COLUMNS).astype(np.int32), (USERS, 1))
    users = UserInput(scores.astype(np.float32), available, valid, target, group)
    weights = rng.dirichlet(np.ones(teachers)).astype(np.float32)
    return Case(logits.astype(np.float32), users, weights, np.asarray(0.1, np.float32))


@quick_jit
def run_all(case: Case):
    """Losses, measures and the students' gradients of every method."""

    def total(logits, config):
        losses, measures = distill_batch(logits, *case[1:], config)
        return losses.sum(), (losses, measures)

    results = {}
    for name, config in CONFIGS.items():
        if name in ORDERS and len(case.weights) != 3:
            continue
        gradients, (losses, measures) = jax.grad(total, has_aux=True)(case.logits, config)
        results[name] = losses, measures, gradients
    return results


def expected(case: Case, config: DistillConfig) -> list[dict]:
    scores, available, valid, target, group = case.users[:5]
    return [
        reference.distill_user(
            case.logits[row],
            scores[row],
            available[row],
            valid[row],
            int(target[row]),
            case.weights,
            float(case.threshold),
            config,
            group[row],
        )
        for row in range(USERS)
    ]


@pytest.mark.parametrize("teachers", [1, 2, 3, 8])
def test_every_method_equals_its_formula(teachers):
    """This covers the loss, the gradient, the weights and the exclusion."""
    for seed in range(3):
        case = random_case(10 * teachers + seed, teachers)
        for name, (losses, measures, gradients) in run_all(case).items():
            want = expected(case, CONFIGS[name])
            close = {"rtol": 2e-6, "atol": 1e-6, "err_msg": name}
            np.testing.assert_allclose(losses, [one["loss"] for one in want], **close)
            right = np.stack([one["gradient"] for one in want])
            np.testing.assert_allclose(gradients, right, **close)
            for field in ("weight", "excluded"):
                right = np.stack([one[field] for one in want])
                np.testing.assert_allclose(getattr(measures, field), right, **close)


def test_methods_differ_from_each_other():
    """No rival is compared with itself under another name."""
    losses = [float(result[0][0]) for result in run_all(random_case(7, 3)).values()]
    assert len(set(losses)) == len(CONFIGS)
    settings = [dataclasses.astuple(method) for method in METHODS.values()]
    assert len(set(settings)) == len(METHODS)


def test_gradients_pass_finite_differences():
    """The gradient is that of the value: no weight moves, and no path is cut."""
    case = random_case(3, 2)
    # Far enough apart that no step changes the student's ranks.
    spread = np.zeros_like(case.logits)
    np.put_along_axis(spread, case.logits.argsort(axis=1), 0.2 * np.arange(COLUMNS)[None], axis=1)

    @jax.jit
    def losses(logits):
        names = ("label_smoothing", *ORDERS)
        return [distill_batch(logits, *case[1:], CONFIGS[name])[0] for name in names]

    check_grads(losses, (spread,), 1, modes=["rev"], eps=2e-2, atol=2e-3, rtol=2e-3)


def test_what_is_masked_has_no_influence_and_all_stays_finite():
    """Masked columns, missing teachers and extreme logits give no nan."""
    case = random_case(5, 3)
    known = case.users.available[:, :, None] & case.users.valid[:, None, :]
    results = []
    for garbage in (0.0, 1e9, np.nan):
        scores = np.where(known, case.users.teacher_scores, np.float32(garbage))
        logits = np.where(case.users.valid, case.logits, np.float32(garbage))
        results.append(
            run_all(case._replace(logits=logits, users=case.users._replace(teacher_scores=scores)))
        )
        chex.assert_trees_all_equal(results[0], results[-1])
    rng = np.random.default_rng(0)
    extreme = rng.choice([-1e9, 1e9, 0.0], size=case.users.teacher_scores.shape)
    extreme[4] = 1.0
    logits = rng.choice([-1e9, 1e9, 0.0], size=case.logits.shape).astype(np.float32)
    users = case.users._replace(teacher_scores=extreme.astype(np.float32))
    for losses, measures, gradients in run_all(case._replace(logits=logits, users=users)).values():
        chex.assert_tree_all_finite((losses, measures, gradients))
        # Only its target, no teacher, no column: nothing to learn.
        assert not losses[1:4].any()
        assert not gradients[1:4].any()


def test_blocks_of_users_change_nothing(monkeypatch):
    """In blocks, every user keeps its own loss, measures and gradient."""
    case = random_case(8, 3)

    def total(logits, config):
        losses, measures = distill_batch(logits, *case[1:], config)
        return losses.sum(), (losses, measures)

    def run(most: int):
        monkeypatch.setattr(distill, "MOST_SCORES", most)
        return quick_jit(jax.grad(total, has_aux=True), static_argnums=1)(
            case.logits, CONFIGS["prmkd"]
        )

    # Blocks of two users, and the seventh alone.
    chex.assert_trees_all_close(run(2 * 3 * COLUMNS), run(10**9), rtol=1e-6, atol=1e-6)


def test_ranks_by_hand():
    """Ranks run downwards, skip masked columns, and take −0 for 0."""
    logits = jnp.array([2.0, 9.0, 5.0, 2.0, 0.0, -1.0, -0.0, -2.0, -1e30])
    valid = jnp.arange(9) != 1
    want = np.exp(-np.array([1, np.inf, 0, 1, 3, 5, 3, 6, 7]) / 10)
    ranks = jax.jit(rank_scores)(logits, valid, 10.0)
    np.testing.assert_allclose(ranks, want, rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_ranks_are_told_apart_down_to_the_last(temperature):
    """Scores that float32 can hold still order 20,000 columns, the unpopular ones too."""
    order = np.random.default_rng(0).permutation(20_000)
    scores = rank_scores(jnp.asarray(-order, jnp.float32), jnp.ones(20_000, bool), temperature)
    columns, _ = top_columns(scores, jnp.asarray(order % 50 == 49), 400)
    assert order[columns].tolist() == list(range(49, 20_000, 50))
    first = order < 80 * temperature
    want = np.exp(-order[first] / temperature)
    np.testing.assert_allclose(scores[first], want, rtol=2e-5)


def test_exact_ties_of_the_ensemble_go_to_the_earlier_column():
    """Rounding doesn't decide between columns that each get the ranks 0, 1 and 2."""
    ranks = np.array([[1, 2, 0, 3], [2, 0, 1, 3], [0, 1, 2, 3]])
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        joint = np.exp(-ranks[order] / 10).astype(np.float32).mean(axis=0, dtype=np.float32)
        columns, real = top_columns(jnp.asarray(joint), jnp.array([True] * 3 + [False]), 4)
        assert columns[:3].tolist() == [0, 1, 2]
        assert real.tolist() == [True] * 3 + [False]


def test_rd_by_hand():
    """The student's own top item isn't pushed, and the weights are w_a · w_b."""
    logits, joint = jnp.array([3.0, -1.0, 0.0]), jnp.array([0.9, 0.8, 0.1])
    loss = ranking_distillation(logits, joint, jnp.ones(3, bool), 2, 1.0, 0.1)
    # The first is ranked first by both; the second is the student's third: 2 places above 1.
    weight = np.exp(-2) / (np.exp(-1) + np.exp(-2)) * np.tanh(0.1 * (2 - 1))
    np.testing.assert_allclose(loss, weight * np.log1p(np.e), rtol=1e-6)


def test_rrd_by_hand():
    """Each top item is compared with itself and all columns below it."""
    logits, joint = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.5, 0.9, 0.1])
    one, two, three = np.exp([0.0, 1.0, 2.0])
    want = -np.log(two / (one + two + three)) - np.log(one / (one + three))
    loss = relaxed_ranking(logits, joint, jnp.ones(3, bool), 2)
    np.testing.assert_allclose(loss, want, rtol=1e-6)


def test_unkd_pairs_are_those_of_a_simulation():
    """Pairs stay within a group, with the chance of two drawn ranks."""
    rng = np.random.default_rng(0)
    logits, joint = rng.normal(size=6), np.linspace(0.9, 0.4, 6)
    group = np.array([0, 1, 0, 1, 0, 1])
    drawn = []
    for columns in ([0, 2, 4], [1, 3, 5]):
        chance = np.exp(-np.arange(3) / 2.0)
        ranks = rng.choice(3, size=(200_000, 2), p=chance / chance.sum())
        ranks = np.sort(ranks[ranks[:, 0] != ranks[:, 1]], axis=1)
        higher, lower = logits[columns][ranks].T
        drawn.append(np.log1p(np.exp(lower - higher)).mean())
    arguments = (jnp.asarray(each, jnp.float32) for each in (logits, joint))
    loss = unbiased_pairs(*arguments, jnp.ones(6, bool), jnp.asarray(group), 2, 2.0)
    np.testing.assert_allclose(loss, np.mean(drawn), rtol=5e-3)


def test_unkd_without_groups_is_refused():
    """Otherwise all items would pass for one group, or for none, in silence."""
    case = random_case(6, 2)
    users = case.users._replace(group=None)
    with pytest.raises(ValueError, match="groups of popularity"):
        jax.eval_shape(lambda: distill_batch(case.logits, users, *case[2:], CONFIGS["unkd"]))


@pytest.mark.parametrize("columns", [1, 2, 9])
def test_the_smoothed_label_is_as_uncertain_as_the_target(columns):
    """The control has the target's entropy, so a gain isn't due to another uncertainty."""
    rng = np.random.default_rng(columns)
    valid = np.zeros(12, bool)
    valid[rng.permutation(12)[:columns]] = True
    own = int(np.flatnonzero(valid)[0])
    for sharpness in (0.3, 1.0, 4.0):
        q = np.where(valid, np.exp(sharpness * rng.normal(size=12)), 0)
        q = (q / q.sum()).astype(np.float32)
        result = np.asarray(label_target(jnp.asarray(q), jnp.asarray(valid), jnp.int32(own)))
        want = np.zeros(12)
        index = int(np.flatnonzero(np.flatnonzero(valid) == own)[0])
        want[valid] = reference.label_target(q[valid].astype(float).tolist(), index)
        np.testing.assert_allclose(result, want, atol=2e-6)
        np.testing.assert_allclose(entropy(jnp.asarray(result)), entropy(jnp.asarray(q)), atol=1e-6)
        np.testing.assert_allclose(result.sum(), 1.0, atol=1e-6)
        assert result.argmax() == own


def test_permutations_are_fixed_and_a_teachers_own():
    """Teachers share no permutation, and a run always draws the same ones."""
    shuffles = [item_permutation(50, teacher, seed) for seed in (0, 1) for teacher in (0, 1, 2)]
    for shuffle in shuffles:
        assert sorted(shuffle) == list(range(50))
    assert len({tuple(shuffle) for shuffle in shuffles}) == 6
    np.testing.assert_array_equal(item_permutation(50, 1, 0), shuffles[1])
