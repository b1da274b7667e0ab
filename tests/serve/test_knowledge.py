"""What students know, as vectors and scores: those that serving gives, history by history."""

import jax.numpy as jnp
import numpy as np
import pytest

from prmkd_jax.serve.exported import read_exported
from prmkd_jax.serve.knowledge import joint_vectors, knowledge, mean_scores
from prmkd_jax.serve.program import Program
from tests.serve.exports import export
from tests.worlds import shelf_world

WORLD = shelf_world(users=12, shelves=2, size=4, length=9)


def known_of(folder, name, seed=0, **options):
    """An exported student with drawn weights, and what it knows."""
    exported = read_exported(export(folder / f"{name}{seed}", WORLD, seed, name, **options))
    return exported, knowledge(exported, WORLD)


def served_scores(exported, place):
    """Scores of all items after the prefix of one instance, as serving computes them."""
    program, interactions = Program(exported, 3), WORLD.interactions
    user = int(interactions.users[place])
    prefix = interactions.items[interactions.indptr[user] : place][-(program.window or 50) :]
    history = np.full((1, program.window or len(prefix)), -1, np.int32)
    history[0, : len(prefix)] = prefix
    arrays = {name: jnp.asarray(array) for name, array in program.arrays().items()}
    queries = program.user_vectors(arrays, history, np.array([user], np.int32))
    return np.asarray(program.score(arrays, queries))[0]


@pytest.mark.parametrize(
    ("name", "options"),
    [("sasrec", {}), ("sasrec", {"positions": "newest"}), ("bert4rec", {}), ("lightgcn", {})],
)
def test_vectors_give_the_scores_that_the_student_serves(tmp_path, name, options):
    """Their products equal the served scores at early and late places of a history."""
    exported, known = known_of(tmp_path, name, **options)
    vectors = joint_vectors([known])
    assert vectors is not None
    scores = vectors[0].astype(np.float64) @ vectors[1].astype(np.float64).T
    for place in (1, 4, 8, 10, 106, 107):  # a first instance, a long prefix, the last ones
        expected = served_scores(exported, place)
        size = np.abs(expected).max()
        np.testing.assert_allclose(scores[place], expected, rtol=0, atol=1e-6 * size)
    begins = WORLD.interactions.indptr[:-1]
    assert not vectors[0][begins].any()


def test_several_students_are_one_teacher_by_their_mean(tmp_path):
    """Unlike a sum, the mean keeps the temperature with any number of seeds."""
    both = [known_of(tmp_path, "sasrec", seed)[1] for seed in (0, 1)]
    vectors = joint_vectors(both)
    assert vectors is not None
    place = np.array([4, 8])
    mean = np.mean([one.score(place).astype(np.float64) for one in both], axis=0)
    np.testing.assert_allclose(vectors[0][place] @ vectors[1].T, mean, atol=1e-5)
    np.testing.assert_allclose(mean_scores(both, place), mean, atol=1e-5)


def test_a_student_whose_scores_are_no_products_gives_scores(tmp_path):
    """DeepFM has no joint vectors, and its scores are those that it serves."""
    exported, known = known_of(tmp_path, "deepfm")
    assert joint_vectors([known]) is None
    places = np.array([4, 106])
    expected = np.stack([served_scores(exported, place) for place in places])
    np.testing.assert_allclose(mean_scores([known], places), expected, rtol=1e-5, atol=1e-5)
