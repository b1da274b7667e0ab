"""Item tables that begin from vectors of the items."""

import jax
import numpy as np
import pytest
from flax import nnx

from prmkd_jax.common.errors import UserError
from prmkd_jax.students.config import BUILT_IN, ItemInit, StudentConfig, parse_item_init
from prmkd_jax.students.registry import about, check, reads, window
from prmkd_jax.students.starts import (
    ItemStart,
    begin_item_tables,
    principal_components,
    side_by_side,
)
from prmkd_jax.students.student import create_student, flatten_params
from tests.worlds import MAX_SEQ_LEN, facts, random_world, student_config

WORLD = random_world(users=12, items=20)
RNG = np.random.default_rng(5)


def vectors(items=40, width=9) -> np.ndarray:
    """Vectors off the origin whose directions have plainly different variances."""
    return (RNG.normal(size=(items, width)) * np.linspace(3, 0.2, width) + 7).astype(np.float32)


@pytest.mark.parametrize("width", [1, 4, 9, 12])
def test_components_are_the_svds_scaled_by_one_number(width):
    """The vectors are centred, the leading components count, and all share one scale."""
    given = vectors().astype(np.float64)
    centred = given - given.sum(0) / 40
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * singular)[:, :width]
    expected = expected * (0.3 / np.sqrt(np.mean((expected - expected.mean()) ** 2)))
    found = principal_components(given.astype(np.float32), width, 0.3)
    assert found.shape == (40, min(width, 9))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=2e-4, atol=1e-5)
    # Signs are free; the products of items are not.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=2e-4, atol=2e-5)


def test_components_do_not_hang_on_the_librarys_signs():
    """Vectors of the opposite sign give the same components with the opposite sign."""
    given = vectors()
    found, turned = (principal_components(each, 5, 0.1) for each in (given, -given))
    np.testing.assert_allclose(found, -turned, atol=1e-6)


def test_as_many_components_as_few_items_have():
    """Five items give four components, and the table's deviation is still the one asked for."""
    given = np.random.default_rng(0).normal(size=(5, 9)).astype(np.float32)
    found = principal_components(given, 8, 0.3)
    assert found.shape == (5, 4)
    np.testing.assert_allclose(found.std(), 0.3, rtol=1e-5)
    assert (found.std(axis=0) > 0.05).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.123456])
def test_equal_vectors_are_refused(value):
    """The error says that all items have the same vector, whatever its value is."""
    with pytest.raises(UserError, match="--item_init: found the same vector for all 6 items"):
        principal_components(np.full((6, 4), value, np.float32), 2, 0.1)


def test_teachers_side_by_side_weigh_the_same():
    """Each teacher's vectors are centred and get a mean squared norm of 1."""
    one, other = vectors(), 100 * vectors(width=5)
    joined = side_by_side([one, other])
    assert joined.shape == (40, 14)
    for part in (joined[:, :9], joined[:, 9:]):
        assert np.square(part).sum() / 40 == pytest.approx(1)
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-12)
    assert not side_by_side([np.ones((3, 2))]).any()


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_tables_that_a_student_names_begin_from_the_vectors_and_nothing_else_does(name):
    """Unknown items, surplus columns and all other tables keep their initial values."""
    config = student_config(student=name)
    known_facts = facts(WORLD, window(config, MAX_SEQ_LEN))
    params = nnx.to_pure_dict(create_student(config, known_facts, 0)[1])
    known = np.arange(WORLD.num_items) % 5 != 0
    given = vectors(WORLD.num_items, 4)
    begun = begin_item_tables(params, about(name).item_tables, ItemStart(given, known, 0.2))
    assert jax.tree.structure(begun) == jax.tree.structure(params)
    before, after = flatten_params(params), flatten_params(begun)
    changed = {key for key in before if (before[key] != after[key]).any()}
    assert changed == set(about(name).item_tables)
    assert changed
    for table in changed:
        assert after[table][known, :4].std() == pytest.approx(0.2, rel=1e-5)
        np.testing.assert_array_equal(after[table][~known], before[table][~known])
        np.testing.assert_array_equal(after[table][:, 4:], before[table][:, 4:])


def test_a_table_of_other_rows_is_a_bug():
    """The ValueError names the table and the number of rows that it should have."""
    start = ItemStart(vectors(6), np.ones(6, bool), 0.1)
    for name in ("table", "other"):
        with pytest.raises(ValueError, match=f"{name}: expected a table of 6 rows"):
            begin_item_tables({"table": np.zeros((5, 2), np.float32)}, [name], start)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("random", ItemInit("random", 0.1)),
        ("text", ItemInit("text", 0.1)),
        ("teachers:1e-2", ItemInit("teachers", 0.01)),
        ("text:3", ItemInit("text", 3.0)),
    ],
)
def test_a_source_and_a_deviation(text, expected):
    """Without a number, the deviation is 0.1."""
    assert parse_item_init(text) == expected
    assert StudentConfig(item_init=text).item_init == text


@pytest.mark.parametrize(
    "text",
    ["", "texts", "text:", "text:0", "text:-1", "text:nan", "text:inf", "text:x", "random:0.1",
     "text:0.1:0.2", ":0.1", "text 0.1"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    """The error names --item_init, also where the deviation is zero, negative or not finite."""
    with pytest.raises(UserError, match="--item_init: found"):
        StudentConfig(item_init=text)


def test_a_student_without_a_table_of_items_is_refused(monkeypatch):
    """Such a student takes only --item_init=random and doesn't silently start at random."""
    import prmkd_jax.students.registry as registry

    assert reads(StudentConfig(), "item_init")
    check(StudentConfig(item_init="text"), 9)
    monkeypatch.setattr(registry, "student_class", lambda name: object)
    assert not reads(StudentConfig(), "item_init")
    check(StudentConfig(), 9)
    with pytest.raises(UserError, match="--item_init: found 'text', expected random: --student="):
        check(StudentConfig(item_init="text"), 9)
