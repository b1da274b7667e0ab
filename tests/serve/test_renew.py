"""Yesterday's student for today's data: every row against the one that it should be, by id."""

import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue
from prmkd_jax.data.subset import with_items, without_items, without_users
from prmkd_jax.serve.exported import read_exported
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.renew import changes, map_items, only_items, params_for, table_axes
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import flatten_params
from tests.serve.exports import export
from tests.students import fields
from tests.worlds import MAX_SEQ_LEN, facts, student_config

TITLES = tuple(f"Title {n % 7}" for n in range(fields.WORLD.num_items))
WORLD = dataclasses.replace(fields.WORLD, catalogue=Catalogue({**fields.TEXTS, "title": TITLES}))
USERS = np.arange(WORLD.num_users) % 5 > 0
OLD = without_users(without_items(WORLD, np.arange(WORLD.num_items) % 8 != 3), USERS)
"""Yesterday: of today's without some items and users; `TODAY` has lost others."""
TODAY = without_items(WORLD, np.arange(WORLD.num_items) % 8 != 5)
ROW = {item: row for row, item in enumerate(OLD.item_ids)}
USER = {user: row for row, user in enumerate(OLD.user_ids)}


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    """Name → an export of random weights."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp("yesterday") / name
            made[name] = read_exported(export(folder, OLD, 5, name))
        return made[name]

    return of


@pytest.mark.parametrize("name", BUILT_IN)
def test_rows_are_those_of_the_same_ids(yesterday, name):
    """Rows of items, users and brands go with their ids, and other parameters stay."""
    exported, config = yesterday(name), student_config(student=name)
    found = changes(exported, TODAY)
    vectors = np.random.default_rng(0).normal(size=(TODAY.num_items, 6))
    mapped = map_items(exported, found, TODAY, vectors)
    today = facts(TODAY, window(config, MAX_SEQ_LEN))
    params = flatten_params(params_for(mapped.exported, config, today, TODAY, "--from"))
    before, axes = flatten_params(exported.params), table_axes(config, exported.facts)
    moved = {parameter for kind in axes.values() for parameter in kind}
    for parameter, array in params.items():
        old = before[parameter]
        if parameter not in moved:
            np.testing.assert_array_equal(array, old)
        for kind, known, now in (
            ("items", ROW, TODAY.item_ids),
            ("users", USER, TODAY.user_ids),
            *(
                (
                    field,
                    {n: row for row, n in enumerate(words.names)},
                    today.item_fields[field].names,
                )
                for field, words in exported.facts.item_fields.items()
            ),
        ):
            if parameter in axes[kind]:
                (axis,) = axes[kind][parameter]
                new, rows = np.moveaxis(array, axis, 0), np.moveaxis(old, axis, 0)
                assert len(new) == len(now)
                for row, one in enumerate(now):
                    if one in known:
                        np.testing.assert_array_equal(new[row], rows[known[one]])
                    elif kind != "items":
                        np.testing.assert_allclose(new[row], rows.mean(0), rtol=1e-5, atol=1e-6)
    assert mapped.exported.item_ids == TODAY.item_ids
    assert set(found.new_items) == {f"i{n}" for n in range(40) if n % 8 == 3}
    assert set(found.vanished_items) == {f"i{n}" for n in range(40) if n % 8 == 5}


@pytest.mark.parametrize("name", ["fm", "deepfm", "lightgcn"])
def test_users_are_counted_where_they_have_vectors(yesterday, name):
    """New and vanished ones are counted; a student that knows no users has None."""
    found = changes(yesterday(name), TODAY)
    assert found.new_users == WORLD.num_users - USERS.sum()
    assert found.vanished_users == 0
    assert changes(yesterday("sasrec"), TODAY).new_users is None


@pytest.mark.parametrize("name", BUILT_IN)
def test_with_fewer_items_the_others_scores_stay(yesterday, name):
    """Scores go with the ids, even if the ids are named in another order."""
    exported = yesterday(name)
    ids = [item for item in reversed(OLD.item_ids) if ROW[item] % 3]
    small = Recommender(only_items(exported, ids))
    read = [[ids[3], ids[7]], [ids[0], ids[5], ids[1]]]
    users = [OLD.user_ids[0], None]
    expected = Recommender(exported).recommend(
        read, len(OLD.item_ids), users=users, allow=ids, filter_seen=False
    )
    answers = small.recommend(read, len(OLD.item_ids), users=users, filter_seen=False)
    for one, other in zip(answers, expected, strict=True):
        found = {each.item: each.score for each in one.items}
        assert found == pytest.approx({x.item: x.score for x in other.items}, rel=1e-5, abs=1e-5)
        assert set(found) == set(ids)


def test_without_vectors_a_new_item_has_the_mean_row(yesterday):
    """No map is reported then, and the titles are today's."""
    exported = yesterday("sasrec")
    mapped = map_items(exported, changes(exported, TODAY), TODAY, None)
    kept = [ROW[item] for item in TODAY.item_ids if item in ROW]
    for row, item in enumerate(TODAY.item_ids):
        if item not in ROW:
            mean = exported.items[kept].mean(0)
            np.testing.assert_allclose(mapped.exported.items[row], mean, rtol=1e-4, atol=1e-6)
    assert mapped.map is None
    titles = mapped.exported.titles
    assert titles is not None
    assert dict(zip(mapped.exported.item_ids, titles, strict=True)) == dict(
        zip(TODAY.item_ids, TODAY.catalogue.texts["title"], strict=True)
    )


def test_no_common_item_and_other_sizes_are_told_in_one_line(yesterday):
    """A data set without a known item is refused, and so are weights of another width."""
    exported = yesterday("sasrec")
    other = dataclasses.replace(TODAY, item_ids=tuple(f"x{n}" for n in range(TODAY.num_items)))
    with pytest.raises(UserError, match=r"--dataset: found no item of hand-made among the 35 .*'i"):
        changes(exported, other)
    wide = student_config(student="sasrec", hidden_size=24)
    mapped = map_items(exported, changes(exported, TODAY), TODAY, None)
    today = facts(TODAY, MAX_SEQ_LEN)
    with pytest.raises(UserError, match="somewhere: "):
        params_for(mapped.exported, wide, today, TODAY, "somewhere")


def test_vanished_items_can_be_kept_as_candidates(yesterday):
    """None of them counts as vanished, and each keeps its row."""
    exported = yesterday("gru4rec")
    gone = changes(exported, TODAY).vanished_items
    kept = with_items(TODAY, gone, ("",) * len(gone))
    found = changes(exported, kept)
    assert found.vanished_items == ()
    mapped = map_items(exported, found, kept, None)
    for row, item in enumerate(kept.item_ids[-len(gone) :], TODAY.num_items):
        np.testing.assert_array_equal(mapped.exported.items[row], exported.items[ROW[item]])
