"""Data sets with fewer items or users, or more items."""

import dataclasses

import numpy as np

from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.data.sheet import describe
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.subset import with_items, without_items, without_users
from tests.worlds import from_histories

TITLES = ("a", "b", "c", "d", "e")
FEATURES = np.arange(4, dtype=np.float16).reshape(2, 2)
WORLD = from_histories([[0, 1, 2], [3], [2, 4, 0, 2]], 5)
WORLD = dataclasses.replace(
    WORLD,
    interactions=dataclasses.replace(
        WORLD.interactions,
        timestamps=np.arange(8),
        parts=np.array([0, 1, 2, 0, 0, 0, 1, 2], np.int8),
    ),
    catalogue=Catalogue(
        {"title": TITLES},
        image_features=FEATURES,
        image_rows=np.array([1, -1, 0, -1, 1], np.int32),
        image_paths=("x", "", "y", "", "z"),
        has_row=np.array([True, False, True, True, True]),
    ),
)


def listed(array):
    """An array that is there, as a list."""
    assert array is not None
    return array.tolist()


def test_further_items_are_no_rows_of_the_catalogue():
    """The data sheet neither counts them as unsold rows nor takes one for its own twin."""
    grown = with_items(WORLD, ("y1", "y2"), ("old", ""))
    found = describe(grown, leave_one_out(grown.interactions))
    lines = {line.name: line for line in found.lines}
    assert lines["items without a catalogue row"].number == 3
    assert lines["items without a catalogue row"].warning == "their texts are empty"
    assert lines["catalogue rows never interacted with"].number == 0


def named(dataset):
    """Histories by the users' and items' own ids."""
    histories = np.split(dataset.interactions.items, dataset.interactions.indptr[1:-1])
    return {
        user: [dataset.item_ids[item] for item in history]
        for user, history in zip(dataset.user_ids, histories, strict=True)
    }


def test_an_item_that_is_taken_out_has_never_been():
    """Histories close up, and texts, images and flags stay with their items."""
    keep = np.array([True, True, False, False, True])
    found = without_items(WORLD, keep)
    assert found.item_ids == ("i0", "i1", "i4")
    assert named(found) == {"u0": ["i0", "i1"], "u1": [], "u2": ["i4", "i0"]}
    assert listed(found.interactions.timestamps) == [0, 1, 5, 6]
    assert listed(found.interactions.parts) == [0, 1, 0, 1]
    assert found.catalogue.texts == {"title": ("a", "b", "e")}
    assert listed(found.catalogue.image_rows) == [1, -1, 1]
    assert found.catalogue.image_paths == ("x", "", "z")
    assert listed(found.catalogue.has_row) == [True, False, True]
    assert found.interactions.items.dtype == np.int32


def test_a_user_that_is_taken_out_leaves_the_items():
    """The other users keep their own interactions and timestamps."""
    found = without_users(WORLD, np.array([True, False, True]))
    assert named(found) == {"u0": ["i0", "i1", "i2"], "u2": ["i2", "i4", "i0", "i2"]}
    assert found.item_ids == WORLD.item_ids
    assert listed(found.interactions.timestamps) == [0, 1, 2, 4, 5, 6, 7]


def test_items_are_added_at_the_end_and_nobody_has_them():
    """Texts, images and flags are as long as the new list of items."""
    found = with_items(WORLD, ("n", "m"), ("new", ""))
    assert named(found) == named(WORLD)
    assert found.item_ids == (*WORLD.item_ids, "n", "m")
    assert found.catalogue.texts == {"title": (*TITLES, "new", "")}
    assert listed(found.catalogue.image_rows) == [1, -1, 0, -1, 1, -1, -1]
    assert found.catalogue.image_paths == ("x", "", "y", "", "z", "", "")
    assert listed(found.catalogue.has_row) == [True, False, True, True, True, False, False]
