import dataclasses

import numpy as np

from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue
from tests.worlds import facts, from_histories

WORLD = from_histories([[0, 1, 0, 2, 3], [3, 3, 1], [2], [2, 0]], 4)


def with_texts(**texts):
    catalogue = Catalogue({field: texts.get(field, ("",) * 4) for field in TEXT_FIELDS})
    return facts(dataclasses.replace(WORLD, catalogue=catalogue))


def test_edges_are_the_distinct_pairs_of_the_training_part():
    """Held-out items are no edges, and an item that was bought twice is one edge."""
    # Users with fewer than three items train on all of them.
    expected = [(0, 0), (0, 1), (1, 3), (2, 2), (3, 0), (3, 2)]
    edges = facts(WORLD).edges
    assert edges.dtype == np.int32
    assert list(map(tuple, edges.T.tolist())) == expected


def test_item_fields_are_vocabularies_of_distinct_words():
    """Each part of a category's path is a word, and an empty text is no word."""
    found = with_texts(
        brand=("Acme, Inc.", "", "Bolt", "Acme, Inc."),
        categories=("Tools, Saws", "Saws,Tools,Saws", " ", "Glue"),
    ).item_fields
    assert found["brand"].size == 2
    assert found["brand"].words.tolist() == [[0], [-1], [1], [0]]
    assert found["categories"].size == 3  # Glue, Saws, Tools
    assert found["categories"].words.tolist() == [[2, 1], [1, 2], [-1, -1], [0, -1]]


def test_a_field_that_no_item_has_is_no_field():
    """No table without rows is made."""
    assert with_texts(brand=("a", "", "", "")).item_fields.keys() == {"brand"}
    assert facts(WORLD).item_fields == {}


def test_facts_are_equal_by_content():
    """Made twice they are one key; another edge, word, window or second domain is another."""
    other = from_histories([[0, 1, 0, 2, 3], [3, 2, 1], [2], [2, 0]], 4)
    made = [
        facts(WORLD),
        facts(WORLD),
        facts(from_histories([[0, 2, 0, 2, 3], [3, 3, 1], [2], [2, 0]], 4)),
        facts(WORLD, 5),
        with_texts(brand=("a", "", "", "")),
        with_texts(brand=("b", "", "", "")),
        facts(WORLD, second=WORLD),
        facts(WORLD, second=from_histories([[0, 1, 2, 3]], 4)),
    ]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert len(set(made)) == len(made) - 1
    # Only the last two items of a history of three or more differ: nothing that is trained on.
    assert facts(other) == facts(WORLD)


def test_only_keeps_the_sizes_and_the_parts_that_are_named():
    """What an export holds of the training data is what the class asks for."""
    full = dataclasses.replace(
        with_texts(brand=("a", "", "", "")), second=facts(WORLD, second=WORLD).second
    )
    bare, fields = full.only(frozenset()), full.only(frozenset({"item_fields"}))
    assert bare.edges.shape == (2, 0)
    assert bare.item_fields == {}
    assert bare.second.num_items == 4
    assert not any(map(len, bare.second[1:]))
    assert (bare.num_users, bare.num_items, bare.window) == (4, 4, full.window)
    assert fields.item_fields.keys() == {"brand"}
    assert (full.only(frozenset({"edges"})).edges == full.edges).all()
