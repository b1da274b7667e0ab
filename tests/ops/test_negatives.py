import jax
import numpy as np
import pytest

from prmkd_jax.ops.negatives import popular_items, popularity, seen_items, unseen_items

COUNTS = np.array([5, 0, 1, 12, 0, 2])
HISTORIES = [[0, 1, 2], [5], [], [1, 3, 4, 5], [0, 2, 3, 4, 5], [6]]
ITEMS = 7
PAIRS = np.array([(u, i) for u, items in enumerate(HISTORIES) for i in items], dtype=np.int32).T


def test_chances_are_in_proportion_to_the_counts_plus_one():
    """Items without training data are drawn too, and `log_q` has the chances of the draws."""
    found = popularity(COUNTS)
    np.testing.assert_allclose(np.exp(found.log_q), np.array([6, 1, 2, 13, 1, 3]) / 26, rtol=1e-6)
    assert found.log_q.dtype == np.float32
    size = 20_000
    drawn = np.asarray(jax.jit(popular_items, static_argnums=2)(jax.random.key(0), found, size))
    shares = np.bincount(drawn, minlength=len(COUNTS)) / size
    q = np.exp(found.log_q)
    # Five standard errors.
    np.testing.assert_array_less(np.abs(shares - q), 5 * np.sqrt(q * (1 - q) / size))


def test_unseen_items_are_uniform_over_what_the_user_has_not_seen():
    """No item of the user's own history is drawn, and each other one is equally likely."""
    seen = seen_items(len(HISTORIES), PAIRS)
    size = 3000
    users = np.repeat(np.arange(len(HISTORIES)), size)
    draw = jax.jit(unseen_items, static_argnums=3)
    drawn = np.asarray(draw(jax.random.key(1), seen, users, ITEMS)).reshape(-1, size)
    for history, items in zip(HISTORIES, drawn, strict=True):
        shares = np.bincount(items, minlength=ITEMS) / size
        left = [item for item in range(ITEMS) if item not in history]
        assert set(np.flatnonzero(shares)) == set(left)
        chance = 1 / len(left)
        assert np.abs(shares[left] - chance).max() <= 5 * np.sqrt(chance * (1 - chance) / size)


def test_long_histories_are_searched_to_their_end():
    """A user who has seen all items but one or two gets only those."""
    rng = np.random.default_rng(0)
    histories = [np.sort(rng.choice(500, size, replace=False)) for size in (499, 1, 250, 498)]
    pairs = np.array([(u, i) for u, items in enumerate(histories) for i in items], np.int32).T
    users = np.repeat(np.arange(4), 200)
    seen = seen_items(4, pairs)
    drawn = np.asarray(unseen_items(jax.random.key(3), seen, users, 500)).reshape(4, -1)
    for history, items in zip(histories, drawn, strict=True):
        left = set(range(500)) - set(history.tolist())
        assert set(items.tolist()) <= left
        distinct = len(left) * (1 - (1 - 1 / len(left)) ** 200)
        assert len(set(items.tolist())) == pytest.approx(distinct, rel=0.1)


def test_one_key_gives_one_draw():
    """Another key gives another draw."""
    for key in (jax.random.key(5), jax.random.key(6)):
        one, other = (np.asarray(popular_items(key, popularity(COUNTS), 50)) for _ in range(2))
        np.testing.assert_array_equal(one, other)
    first = popular_items(jax.random.key(5), popularity(COUNTS), 50)
    assert (one != np.asarray(first)).any()
