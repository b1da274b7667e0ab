import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.distill.consistency import (
    disagreement,
    excluded_teacher,
    joint_scores,
    redistribute_weights,
)
from tests.checking import unchecked
from tests.distill import reference

examples = hypothesis.settings(derandomize=True, deadline=None, max_examples=120)
find_excluded = jax.jit(excluded_teacher)
redistribute = jax.jit(redistribute_weights, static_argnums=3)


@st.composite
def teachers(draw):
    """Disagreements, weights and availability on a coarse grid, where ties are common."""
    count = draw(st.sampled_from([8, 3, 2, 1]))

    def each(element):
        return np.array(draw(st.lists(element, min_size=count, max_size=count)))

    conf = each(st.integers(0, 3)).astype(np.float32)
    weights = each(st.integers(0, 4)).astype(np.float32) / 4
    available = each(st.booleans())
    if draw(st.booleans()):
        available[:] = True
    # Quarters fall on and between the disagreements.
    threshold = draw(st.integers(-1, 16)) / 4
    return np.where(available, conf, 0), weights, available, threshold


def excluded_by_reference(conf, weights, available, threshold):
    here = np.flatnonzero(available)
    place = reference.excluded_teacher(conf[here].tolist(), weights[here].tolist(), threshold)
    return here, place


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_disagreement_equals_eq_2(count):
    """Each pair counts once, and the distances are summed, not averaged."""
    rng = np.random.default_rng(count)
    with jax.enable_x64(True):
        for available in (np.ones(count, bool), rng.random(count) < 0.6, np.zeros(count, bool)):
            scores = rng.random((count, 9))
            want = np.zeros(count)
            want[available] = reference.disagreement(scores[available].tolist())
            result = disagreement(jnp.asarray(scores), jnp.asarray(available))
            np.testing.assert_allclose(result, want, rtol=1e-12)


def test_near_identical_teachers_keep_their_digits_in_float32():
    """Distances as ‖a‖² + ‖b‖² − 2ab would be off by more than 1 % here."""
    rng = np.random.default_rng(0)
    base = rng.dirichlet(np.ones(512)) * 3
    scores = (base * (1 + 1e-4 * rng.normal(size=(3, 512)))).astype(np.float32)
    exact = reference.disagreement(scores.astype(float).tolist())
    result = np.asarray(disagreement(jnp.asarray(scores), jnp.ones(3, bool)))
    np.testing.assert_allclose(result, exact, rtol=1e-5)

    gram = scores @ scores.T
    squares = np.diag(gram)
    by_gram = (squares[:, None] + squares[None, :] - 2 * gram).sum(axis=1)
    assert (np.abs(by_gram - exact) > 0.01 * np.asarray(exact)).any()


def test_identical_teachers_disagree_by_exactly_nothing():
    """No rounding error is left for a threshold of 0 to act upon."""
    scores = jnp.tile(jax.random.uniform(jax.random.key(0), (1, 33)), (5, 1))
    conf = disagreement(scores, jnp.ones(5, bool))
    np.testing.assert_array_equal(conf, np.zeros(5))
    assert not find_excluded(conf, jnp.full(5, 0.2), jnp.ones(5, bool), 0.0).any()


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_the_one_that_contradicts_the_others_is_excluded(liar):
    """The largest disagreement is dropped, despite the paper's word confidence."""
    rng = np.random.default_rng(liar)
    scores = np.tile(rng.random(20), (3, 1)) + 0.01 * rng.random((3, 20))
    scores[liar] = 1 - scores[liar]
    conf = disagreement(jnp.asarray(scores, jnp.float32), jnp.ones(3, bool))
    weights = jnp.array([0.2, 0.3, 0.5])
    excluded = find_excluded(conf, weights, jnp.ones(3, bool), 0.1)
    np.testing.assert_array_equal(excluded, np.arange(3) == liar)
    new = redistribute(weights, jnp.ones(3, bool), excluded, "equal")
    want = np.where(np.arange(3) == liar, 0, weights + weights[liar] / 2)
    np.testing.assert_allclose(new, want, atol=1e-7)


@examples
@given(teachers())
def test_the_rule_equals_section_3_3_on_ties_and_missing_teachers(case):
    """This covers the strict threshold and the case of two teachers as well."""
    conf, weights, available, threshold = case
    here, place = excluded_by_reference(*case)
    want = np.zeros(len(conf), bool)
    if place is not None:
        want[here[place]] = True
    np.testing.assert_array_equal(find_excluded(conf, weights, available, threshold), want)


@examples
@given(teachers(), st.sampled_from(["equal", "proportional"]))
def test_weights_equal_the_reference_and_sum_to_one(case, rule):
    """No share is lost or goes to a missing or excluded teacher, and nothing divides by 0."""
    _, weights, available, _ = case
    here, place = excluded_by_reference(*case)
    excluded, want = np.zeros(len(weights), bool), np.zeros(len(weights))
    if place is not None:
        excluded[here[place]] = True
    if len(here):
        want[here] = reference.adjusted_weights(weights[here].tolist(), place, rule)
    result = redistribute(weights, available, excluded, rule)
    np.testing.assert_allclose(result, want, atol=1e-6)
    np.testing.assert_allclose(result.sum(), float(len(here) > 0), atol=1e-6)


@examples
@given(teachers(), st.randoms(use_true_random=False))
def test_the_order_of_the_teachers_is_immaterial(case, random):
    """A teacher's place matters only as the last resort between equals."""
    conf, weights, available, threshold = case
    conf = np.where(available, conf + np.arange(len(conf)) / 64, 0).astype(np.float32)
    order = np.array(random.sample(range(len(conf)), len(conf)))
    excluded = np.asarray(find_excluded(conf, weights, available, threshold))
    shuffled = find_excluded(conf[order], weights[order], available[order], threshold)
    np.testing.assert_array_equal(shuffled, excluded[order])
    np.testing.assert_allclose(
        redistribute(weights[order], available[order], excluded[order], "equal"),
        redistribute(weights, available, excluded, "equal")[order],
        atol=1e-6,
    )


def test_the_threshold_is_exceeded_strictly():
    """A disagreement that equals the threshold drops nobody."""
    conf, weights, everyone = jnp.array([0.5, 0.25, 0.25]), jnp.full(3, 1 / 3), jnp.ones(3, bool)
    assert not find_excluded(conf, weights, everyone, 0.5).any()
    below = np.nextafter(np.float32(0.5), np.float32(0))
    np.testing.assert_array_equal(find_excluded(conf, weights, everyone, below), [1, 0, 0])
    assert not find_excluded(conf, weights, everyone, jnp.inf).any()


@pytest.mark.parametrize(
    ("conf", "weights", "want"),
    [
        ([2.0, 2.0, 1.0], [0.5, 0.2, 0.3], 1),
        ([2.0, 2.0, 1.0], [0.2, 0.5, 0.3], 0),
        ([2.0, 2.0, 2.0], [0.3, 0.3, 0.4], 1),
        ([2.0, 2.0, 2.0], [1 / 3, 1 / 3, 1 / 3], 2),
        ([1.0, 2.0, 1.0], [0.1, 0.8, 0.1], 1),
    ],
)
def test_ties_drop_the_lighter_then_the_later(conf, weights, want):
    """Of equals one teacher goes: the lightest, or the last of the equally light."""
    excluded = find_excluded(jnp.array(conf), jnp.array(weights), jnp.ones(3, bool), 0.1)
    np.testing.assert_array_equal(excluded, np.arange(3) == want)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_teachers_are_never_dropped(count):
    """Two teachers always disagree equally, and the tie rule drops neither of them."""
    conf, weights = jnp.full(count, 9.0), jnp.arange(1.0, count + 1)
    assert not find_excluded(conf, weights, jnp.ones(count, bool), 0.0).any()
    # Neither may two be, of which the other four know nothing.
    conf, available = jnp.array([9.0, 0, 9, 0, 0, 0]), jnp.array([1, 0, 1, 0, 0, 0], bool)
    assert not find_excluded(conf, jnp.ones(6) / 6, available, 0.0).any()


def test_a_missing_teachers_weight_is_renormalised_away():
    """The others share it in proportion to their weights, under both rules."""
    weights, available = jnp.array([0.2, 0.5, 0.3]), jnp.array([True, False, True])
    for rule in ("equal", "proportional"):
        new = redistribute(weights, available, jnp.zeros(3, bool), rule)
        np.testing.assert_allclose(new, [0.4, 0, 0.6], atol=1e-7)


def test_a_missing_teacher_inherits_nothing():
    """An excluded teacher's weight goes only to teachers that know the user."""
    weights, available = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([1, 1, 1, 0], bool)
    excluded = jnp.array([0, 0, 1, 0], bool)
    equal = redistribute(weights, available, excluded, "equal")
    np.testing.assert_allclose(equal, [5 / 12, 7 / 12, 0, 0], atol=1e-7)
    proportional = redistribute(weights, available, excluded, "proportional")
    np.testing.assert_allclose(proportional, [1 / 3, 2 / 3, 0, 0], atol=1e-7)


def test_equal_and_proportional_shares_by_hand():
    """The excluded weight is counted once, and an unknown rule is an error."""
    weights, everyone = jnp.array([0.2, 0.5, 0.3]), jnp.ones(3, bool)
    excluded = jnp.array([False, True, False])
    equal = redistribute(weights, everyone, excluded, "equal")
    np.testing.assert_allclose(equal, [0.45, 0, 0.55], atol=1e-7)
    proportional = redistribute(weights, everyone, excluded, "proportional")
    np.testing.assert_allclose(proportional, [0.4, 0, 0.6], atol=1e-7)
    with pytest.raises(ValueError, match="equally"):
        unchecked(redistribute_weights)(weights, everyone, excluded, "equally")


def test_joint_scores_equal_eq_3():
    """The weighted sum runs over teachers, and a weight of 0 silences one."""
    rng = np.random.default_rng(0)
    scores, weights = rng.random((3, 7)).astype(np.float32), np.array([0.25, 0.0, 0.75])
    want = [sum(weights[k] * float(scores[k, j]) for k in range(3)) for j in range(7)]
    result = joint_scores(jnp.asarray(scores), jnp.asarray(weights, jnp.float32))
    np.testing.assert_allclose(result, want, atol=1e-7)
    np.testing.assert_array_equal(joint_scores(jnp.asarray(scores), jnp.eye(3)[1]), scores[1])


def test_one_user_at_a_time_and_many_agree():
    """A vmapped reduction doesn't mix the users of a batch."""
    rng = np.random.default_rng(1)
    scores = jnp.asarray(rng.random((6, 3, 8)), jnp.float32)
    available = jnp.asarray(rng.random((6, 3)) < 0.8)
    batched = jax.vmap(disagreement)(scores, available)
    looped = jnp.stack([disagreement(*user) for user in zip(scores, available, strict=True)])
    chex.assert_trees_all_close(batched, looped, rtol=1e-6)
