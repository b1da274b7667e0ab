import copy
import functools
import itertools
from typing import NamedTuple

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from prmkd_jax.distill.config import KL_DIRECTIONS, NORMALIZATIONS, DistillConfig
from prmkd_jax.distill.per_user import (
    TeacherMeasures,
    UserInput,
    distill_batch,
    distill_user,
    largest_disagreement,
)
from prmkd_jax.distill.teacher_scores import TeacherTables, score_columns
from tests.distill import reference

examples = hypothesis.settings(derandomize=True, deadline=None, max_examples=40)
DEFAULT = DistillConfig()
USERS, COLUMNS = 8, 11


class Case(NamedTuple):
    """A batch: the arguments of `distill_batch` but for the configuration."""

    logits: np.ndarray
    users: UserInput
    weights: np.ndarray
    threshold: np.ndarray


def random_case(seed: int, teachers: int, config: DistillConfig) -> Case:
    """A batch with masked columns and missing teachers, garbage in both.

    User 0 has everything, user 1 no column, user 2 only its target, user 3 no teacher. The
    threshold lies between the users' largest disagreements.
    """
    rng = np.random.default_rng(seed)
    order = rng.random((USERS, COLUMNS)).argsort(axis=1)
    valid = order < rng.integers(5, COLUMNS + 1, size=(USERS, 1))
    valid[0], valid[1], valid[2] = True, False, order[2] == 0
    target = order.argmin(axis=1)
    available = rng.random((USERS, teachers)) < 0.85
    available[0], available[3] = True, False
    # Teachers share an opinion, so that some are closer to each other than others.
    scores = rng.normal(size=(USERS, 1, COLUMNS)) + rng.normal(size=(USERS, teachers, COLUMNS))
    known = available[:, :, None] & valid[:, None, :]
    scores = np.where(known, scores, rng.choice([-1e9, 1e9, 0.0, 30.0], size=scores.shape))
    logits = rng.normal(size=valid.shape)
    logits = np.where(valid, logits, rng.choice([-1e9, 1e9, 0.0, 30.0], size=valid.shape))
    users = UserInput(scores.astype(np.float32), available, valid, target.astype(np.int32))
    weights = rng.dirichlet(np.ones(teachers)).astype(np.float32)
    case = Case(logits.astype(np.float32), users, weights, np.float32(np.inf))
    largest = np.sort([one["disagreement"].max() for one in expected(case, config)])
    return case._replace(threshold=np.asarray((largest[-4] + largest[-3]) / 2, np.float32))


def expected(case: Case, config: DistillConfig) -> list[dict]:
    return [
        reference.distill_user(logits, *user, case.weights, float(case.threshold), config)
        for logits, *user in zip(case.logits, *case.users[:4], strict=True)
    ]


def combinations(method: str, teachers: int) -> list[tuple[str, str, bool]]:
    """Values of kl, redistribute and kd_include_positive to compile for a program.

    For three teachers all under the default normalisation, and all once more shared out
    among the other three; for another number of teachers two.
    """
    every = list(itertools.product(KL_DIRECTIONS, ("equal", "proportional"), (True, False)))
    if teachers != 3:
        return [every[0], every[7]]
    if method == DEFAULT.score_normalization:
        return every
    # Steps of 5 make each share hold all three directions, both rules, both choices.
    return [every[5 * k % 12] for k in range(NORMALIZATIONS.index(method) - 1, 12, 3)]


# The tests compile much and compute little.
quick_jit = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


def with_traced(config: DistillConfig, **numbers) -> DistillConfig:
    """The configuration with traced numbers, which it can't check: one program serves them all."""
    config = copy.copy(config)
    for name, number in numbers.items():
        object.__setattr__(config, name, number)
    return config


@functools.partial(quick_jit, static_argnums=1)
def run_combinations(case: Case, method: str, temperature, student_temperature, smoothing):
    """Losses, measures and the students' gradients for every one of `combinations`."""

    def total(logits, config):
        losses, measures = distill_batch(logits, *case[1:], config)
        return losses.sum(), (losses, measures)

    results = {}
    for kl, rule, positive in combinations(method, len(case.weights)):
        config = DistillConfig(
            score_normalization=method, kl=kl, redistribute=rule, kd_include_positive=positive
        )
        config = with_traced(
            config,
            temperature=temperature,
            student_temperature=student_temperature,
            smoothing=smoothing,
        )
        gradients, (losses, measures) = jax.grad(total, has_aux=True)(case.logits, config)
        results[kl, rule, positive] = losses, measures, gradients
    return results


def run(case: Case, config: DistillConfig):
    """Losses, measures and the gradients with respect to the students' logits."""
    numbers = config.temperature, config.student_temperature, config.smoothing
    results = run_combinations(case, config.score_normalization, *numbers)
    return results[config.kl, config.redistribute, config.kd_include_positive]


def configs(method: str, teachers: int, **numbers) -> list[DistillConfig]:
    """One for each of `combinations`."""
    return [
        DistillConfig(
            score_normalization=method,
            kl=kl,
            redistribute=rule,
            kd_include_positive=positive,
            **numbers,
        )
        for kl, rule, positive in combinations(method, teachers)
    ]


def assert_equals_reference(case: Case, config: DistillConfig, tolerance: float = 1e-6):
    want = expected(case, config)
    losses, measures, gradients = run(case, config)
    close = {"rtol": tolerance, "atol": tolerance}
    np.testing.assert_allclose(losses, [one["loss"] for one in want], **close)
    np.testing.assert_allclose(gradients, np.stack([one["gradient"] for one in want]), **close)
    for name in ("excluded", "weight", "entropy", "kl"):
        right = np.stack([one[name] for one in want])
        # Of a teacher that does not know the user there is no entropy and no distance.
        left = np.where(np.isnan(right), np.nan, getattr(measures, name))
        np.testing.assert_allclose(left, right, **close, err_msg=name)


# With other numbers of teachers than three every normalisation is tried once.
PROGRAMS = [
    *((method, 3) for method in NORMALIZATIONS),
    ("sum", 1),
    ("l2", 2),
    ("minmax", 2),
    ("zscore_softmax", 8),
]


@pytest.mark.parametrize(("method", "teachers"), PROGRAMS)
def test_every_option_equals_the_reference(method, teachers):
    """Every combination of options is within 1e-6 of the paper's formulas."""
    excluded = []
    for seed in range(3):
        numbers = {
            "temperature": (0.5, 1.0, 2.0)[seed],
            "student_temperature": (1.0, 0.5, 4.0)[seed],
            "smoothing": (1e-3, 1e-2, 0.3)[seed],
        }
        for config in configs(method, teachers, **numbers):
            case = random_case(100 * teachers + seed, teachers, config)
            assert_equals_reference(case, config)
            excluded.append(sum(one["excluded"].sum() for one in expected(case, config)))
    # The comparison would be worth little if the rule were seldom active.
    assert (np.array(excluded) > 0).all() if teachers > 2 else not any(excluded)


@examples
@given(
    seed=st.integers(0, 2**32 - 1),
    program=st.sampled_from(PROGRAMS),
    temperature=st.floats(0.5, 5.0),
    student_temperature=st.floats(0.5, 5.0),
    smoothing=st.sampled_from([0.0, 1e-3, 0.5]),
)
def test_options_drawn_at_random_equal_the_reference(seed, program, **numbers):
    """Options that are right alone are right together."""
    # Near its minimum a stretched softmax is a difference of almost equal numbers.
    tolerance = 1e-5 if program[0] == "minmax" else 1e-6
    for config in configs(*program, **numbers):
        assert_equals_reference(random_case(seed, program[1], config), config, tolerance)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_small_temperatures_equal_the_reference(method):
    """No exponential under- or overflows at the small end of the paper's grid."""
    for temperature in (0.02, 0.1):
        for config in configs(method, 3, temperature=temperature):
            # Nearly one-hot teachers tie; which one goes would hang on the last bit.
            case = random_case(5, 3, config)._replace(threshold=np.asarray(np.inf, np.float32))
            # An exponent of 5 / temperature is rounded by up to 3e-7 / temperature.
            assert_equals_reference(case, config, 1e-6 / temperature)


def test_the_students_gradient_passes_finite_differences():
    """The gradient is that of the value, independently of any closed form."""
    case = random_case(8, 3, DEFAULT)
    logits = np.where(case.users.valid, case.logits, 0.0)

    @jax.jit
    def losses(logits):
        return distill_batch(logits, *case[1:], DEFAULT)[0]

    check_grads(losses, (logits,), order=1, eps=1e-2, atol=1e-3, rtol=1e-3)


def test_no_gradient_reaches_the_teachers_or_comes_from_a_measure():
    """The teachers' scores and weights are constants, and no logged number trains the student."""
    case = random_case(9, 3, DEFAULT)

    @quick_jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def of_losses(scores, weights):
        users = case.users._replace(teacher_scores=scores)
        return distill_batch(case.logits, users, weights, case.threshold, DEFAULT)[0].sum()

    @quick_jit
    @jax.grad
    def of_measures(logits):
        measures = distill_batch(logits, *case[1:], DEFAULT)[1]
        return sum(leaf.sum() for leaf in measures)

    slopes = of_losses(case.users.teacher_scores, case.weights), of_measures(case.logits)
    for slope in jax.tree.leaves(slopes):
        assert not slope.any()


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_identical_teachers_are_one_teacher(method):
    """Nobody is excluded, and mixing equal opinions leaves the loss of one teacher."""
    for config in configs(method, 3):
        case = random_case(10, 3, config)
        users = case.users._replace(
            teacher_scores=np.repeat(case.users.teacher_scores[:, :1], 3, axis=1),
            available=np.ones((USERS, 3), bool),
        )
        case = case._replace(users=users, threshold=np.asarray(0, np.float32))
        losses, measures, _ = run(case, config)
        assert not measures.excluded.any()
        np.testing.assert_allclose(measures.weight, np.tile(case.weights, (USERS, 1)), atol=1e-6)
        first = users._replace(available=np.tile([True, False, False], (USERS, 1)))
        alone = run(case._replace(users=first), config)[0]
        np.testing.assert_allclose(losses, alone, rtol=1e-6, atol=1e-6)
        if config.kl == "reverse":
            np.testing.assert_allclose(losses, measures.kl[:, 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_an_adversarial_teacher_is_excluded_and_silent(liar):
    """The liar is the one of three that goes, and it no longer changes the loss."""
    case = random_case(11, 3, DEFAULT)
    rng = np.random.default_rng(liar)
    scores = rng.normal(size=(USERS, 1, COLUMNS)) + 0.05 * rng.normal(size=(USERS, 3, COLUMNS))
    users = case.users._replace(
        available=np.ones((USERS, 3), bool), valid=np.ones((USERS, COLUMNS), bool)
    )
    results = []
    for lie in (-scores[:, liar], -(scores[:, liar] ** 3)):
        scores[:, liar] = lie
        changed = users._replace(teacher_scores=scores.astype(np.float32))
        results.append(
            run(case._replace(users=changed, threshold=np.asarray(0.02, np.float32)), DEFAULT)
        )
        scores[:, liar] = -lie
    for losses, measures, _ in results:
        np.testing.assert_array_equal(measures.excluded, np.tile(np.arange(3) == liar, (USERS, 1)))
        assert not measures.weight[:, liar].any()
        np.testing.assert_array_equal(losses, results[0][0])


def test_the_order_of_the_teachers_only_permutes_the_measures():
    """No teacher is treated differently because of its place."""
    case = random_case(12, 3, DEFAULT)
    losses, measures, gradients = run(case, DEFAULT)
    for order in map(list, itertools.permutations(range(3))):
        users = case.users._replace(
            teacher_scores=case.users.teacher_scores[:, order],
            available=case.users.available[:, order],
        )
        shuffled = run(case._replace(users=users, weights=case.weights[order]), DEFAULT)
        permuted = TeacherMeasures(*(leaf[:, order] for leaf in measures))
        chex.assert_trees_all_close(shuffled, (losses, permuted, gradients), atol=1e-6)


def test_a_teachers_scale_and_offset_do_not_matter():
    """Under zscore_softmax, a teacher's own temperature doesn't decide who is excluded."""
    case = random_case(13, 3, DEFAULT)
    scores = case.users.teacher_scores.copy()
    scores[:, 1] = 0.25 * scores[:, 1] + 0.5
    changed = case._replace(users=case.users._replace(teacher_scores=scores))
    chex.assert_trees_all_close(run(changed, DEFAULT), run(case, DEFAULT), atol=2e-6)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_the_largest_disagreement_is_what_the_rule_compares(method):
    """Calibration measures the number that the step compares with the threshold."""
    config = DistillConfig(score_normalization=method, kd_include_positive=method != "sum")
    case = random_case(15, 3, config)
    want = [one["disagreement"].max() for one in expected(case, config)]
    largest = quick_jit(jax.vmap(functools.partial(largest_disagreement, config=config)))
    np.testing.assert_allclose(largest(case.users), want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_near_identical_teachers_disagree_as_in_float64(method):
    """Small differences between teachers don't drown in float32."""
    rng = np.random.default_rng(14)
    scores = rng.normal(size=64) + 3e-4 * rng.normal(size=(3, 64))
    scores = scores.astype(np.float32)
    rows = [reference.normalized_scores(row.tolist(), 0.5, method) for row in scores.astype(float)]
    user = UserInput(jnp.asarray(scores), jnp.ones(3, bool), jnp.ones(64, bool), jnp.int32(0))
    config = DistillConfig(score_normalization=method, temperature=0.5)
    result = jax.jit(largest_disagreement, static_argnums=1)(user, config)
    np.testing.assert_allclose(result, max(reference.disagreement(rows)), rtol=1e-3)


def test_a_batch_equals_its_users_one_by_one():
    """vmap mixes no users in a reduction, a threshold or an argmax."""
    case = random_case(16, 3, DEFAULT)
    one = quick_jit(functools.partial(distill_user, config=DEFAULT))
    each = [
        one(logits, UserInput(*user), case.weights, case.threshold)
        for logits, *user in zip(case.logits, *case.users[:4], strict=True)
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    chex.assert_trees_all_close(run(case, DEFAULT)[:2], stacked, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_what_is_masked_or_missing_has_no_influence(method):
    """Their numbers, nan included, change no bit of the result."""
    case = random_case(17, 3, DistillConfig(score_normalization=method))
    known = case.users.available[:, :, None] & case.users.valid[:, None, :]
    results = []
    for garbage in (0.0, -1e9, 1e9, 3e38, np.nan):
        scores = np.where(known, case.users.teacher_scores, np.float32(garbage))
        logits = np.where(case.users.valid, case.logits, np.float32(garbage))
        users = case.users._replace(teacher_scores=scores)
        changed = case._replace(logits=logits, users=users)
        results.append(run_combinations(changed, method, 0.5, 1.0, 1e-3))
        chex.assert_trees_all_equal(results[0], results[-1])
    for _, _, gradients in results[0].values():
        assert not np.asarray(gradients)[~case.users.valid].any()


def test_without_its_positive_a_row_ignores_it():
    """With kd_include_positive=False the target's own scores change no bit."""
    config = DistillConfig(kd_include_positive=False)
    case = random_case(18, 3, config)
    own = np.arange(COLUMNS) == case.users.target_column[:, None]
    results = []
    for value in (0.0, 1e9, -5.0):
        logits = np.where(own, np.float32(value), case.logits)
        scores = np.where(own[:, None], np.float32(value), case.users.teacher_scores)
        users = case.users._replace(teacher_scores=scores)
        results.append(run(case._replace(logits=logits, users=users), config))
        chex.assert_trees_all_equal(results[0], results[-1])
    assert not np.asarray(results[0][2])[own].any()


@pytest.mark.parametrize("method", NORMALIZATIONS)
def test_extreme_inputs_stay_finite_with_their_gradients(method):
    """A collapsed, constant or exploding model puts no nan into the parameters."""
    case = random_case(19, 3, DistillConfig(score_normalization=method))
    rng = np.random.default_rng(0)
    scores = rng.choice([-1e9, 1e9, 0.0, 1.0], size=case.users.teacher_scores.shape)
    scores[4:6] = scores[4:6, :, :1]
    logits = rng.choice([-1e9, 1e9, 0.0], size=case.logits.shape)
    logits[5] = 1e9
    users = case.users._replace(teacher_scores=scores.astype(np.float32))
    case = case._replace(
        logits=logits.astype(np.float32), users=users, threshold=np.asarray(0, np.float32)
    )
    # Without smoothing, and the smallest temperatures.
    for losses, measures, gradients in run_combinations(case, method, 0.02, 0.1, 0.0).values():
        chex.assert_tree_all_finite((losses, measures, gradients))
        assert (losses > -1e-6).all()
        # No column, one column, no teacher: nothing to learn.
        assert not losses[1:4].any()
        assert not gradients[1:4].any()


def test_a_broken_teacher_is_seen_in_the_loss():
    """A teacher's nan gives its user a loss of nan, and no other user."""
    case = random_case(17, 3, DEFAULT)
    case.users.teacher_scores[0, 1, :] = np.nan
    losses = run(case, DEFAULT)[0]
    assert np.isnan(losses[0])
    assert np.isfinite(losses[1:]).all()


def test_agreement_says_whose_best_column_is_the_target():
    """A masked column can't win, and a row without its target has no agreement."""
    case = random_case(20, 3, DEFAULT)
    scores = np.zeros((USERS, 3, COLUMNS), np.float32)
    scores[:, 0, 2], scores[:, 1, 1], scores[:, 2, 0] = 5, 5, 5
    scores[1, :, 3] = 1e9
    valid = np.ones((USERS, COLUMNS), bool)
    valid[1, 3], valid[2] = False, False
    target = np.arange(USERS, dtype=np.int32)
    target[:3] = 2, 1, 0
    users = UserInput(scores, np.ones((USERS, 3), bool), valid, target)
    agreement = run(case._replace(users=users), DEFAULT)[1].agreement
    np.testing.assert_array_equal(agreement[:4], [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])


def test_measures_of_some_users_are_those_users_own():
    """All users have their losses, and every fourth one has its own measures."""
    case = random_case(24, 3, DEFAULT)
    losses, measures = quick_jit(distill_batch, static_argnums=(4, 5))(*case, DEFAULT, 4)
    all_losses, all_measures, _ = run(case, DEFAULT)
    np.testing.assert_allclose(losses, all_losses, rtol=1e-6)
    assert measures.weight.shape == (2, 3)
    some = jax.tree.map(lambda values: values[::4], all_measures)
    chex.assert_trees_all_close(measures, some, rtol=1e-6, atol=1e-7)


def test_one_compilation_serves_every_batch_threshold_and_weight():
    """Threshold and weights are arguments, and bfloat16 logits give float32 results."""
    compiled = jax.jit(chex.assert_max_traces(distill_batch, n=1), static_argnums=4)
    for seed in (21, 22):
        case = random_case(seed, 3, DEFAULT)
        half = jnp.asarray(case.logits, jnp.bfloat16)
        result = compiled(half, *case[1:], DEFAULT)
        # The student's precision ends before the softmax.
        chex.assert_type(jax.tree.leaves(result), jnp.float32)
        rounded = case._replace(logits=np.asarray(half, np.float32))
        chex.assert_trees_all_close(result, run(rounded, DEFAULT)[:2], rtol=1e-6, atol=1e-6)


def test_columns_are_scored_as_in_float64():
    """float16 tables are multiplied in float32, with the right ids and scales."""
    rng = np.random.default_rng(23)
    scales, ids, candidates = (1 / 0.07, 20.0), [8, 0, 3, 3], [6, 2, 0, 0, 1]
    available = rng.random((9, 2)) < 0.5
    for dtype in (np.float16, np.float32):
        instances, items = (
            tuple((rng.normal(size=(rows, d)) / d**0.5).astype(dtype) for d in (16, 300))
            for rows in (9, 7)
        )
        tables = TeacherTables(
            *jax.tree.map(jnp.asarray, (instances, items)),
            jnp.asarray(scales, jnp.float32),
            jnp.asarray(available),
        )
        result = score_columns(tables, jnp.asarray(ids), jnp.asarray(candidates))
        assert result.scores.dtype == jnp.float32
        np.testing.assert_array_equal(result.available, available[ids])
        want = [
            [[scale * sum((u[i] * v[c]).tolist()) for c in candidates] for i in ids]
            for scale, u, v in zip(
                scales,
                [table.astype(np.float64) for table in instances],
                [table.astype(np.float64) for table in items],
                strict=True,
            )
        ]
        np.testing.assert_allclose(np.swapaxes(result.scores, 0, 1), want, atol=1e-5)
