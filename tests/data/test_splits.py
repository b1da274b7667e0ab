import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Interactions
from prmkd_jax.data.splits import given as given_split
from prmkd_jax.data.splits import global_temporal, leave_one_out, require_parts, split_digest


def test_leave_one_out_by_hand():
    """Users of 4, 2, 3, 0 and 1 items: offsets 0–3, 4–5, 6–8, none, 9."""
    interactions = Interactions(
        np.array([0, 4, 6, 9, 9, 10]), np.array([5, 6, 7, 8, 5, 6, 7, 5, 8, 9], dtype=np.int32)
    )
    split = leave_one_out(interactions)
    assert split.test.tolist() == [3, 8]
    assert split.validation.tolist() == [2, 7]
    assert split.train.tolist() == [1, 5]
    assert split.train_end.tolist() == [2, 6, 7, 9, 10]
    assert all(part.dtype == np.int64 for part in (split.train, split.validation, split.test))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_leave_one_out_equals_a_loop_over_users(lengths):
    """No held-out item is trained on, and every instance belongs to one part."""
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    interactions = Interactions(indptr, np.zeros(int(indptr[-1]), dtype=np.int32))
    train, validation, test, train_end = [], [], [], []
    offset = 0
    for length in lengths:
        held_out = 2 if length >= 3 else 0
        positions = [offset + place for place in range(length)]
        kept = positions[: length - held_out]
        train += kept[1:]
        train_end.append(offset + len(kept))
        if held_out:
            validation.append(positions[-2])
            test.append(positions[-1])
        offset += length
    split = leave_one_out(interactions)
    assert split.train.tolist() == train
    assert split.validation.tolist() == validation
    assert split.test.tolist() == test
    assert split.train_end.tolist() == train_end


@pytest.mark.parametrize("length", [2, 3])
def test_data_that_leave_a_part_empty_are_refused(length):
    """One line tells how many instances each part has."""
    indptr = np.arange(0, 5 * length + 1, length)
    interactions = Interactions(indptr, np.zeros(5 * length, dtype=np.int32))
    with pytest.raises(
        UserError, match=r"data set short: found {.*: 0.*} instances, expected some"
    ):
        require_parts("short", leave_one_out(interactions))


DAY = 86_400_000_000


def by_days(*histories):
    """Histories as lists of days; item ids count up."""
    days = np.array([day for history in histories for day in history], dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    items = np.arange(len(days), dtype=np.int32)
    return Interactions(indptr.astype(np.int64), items, days * DAY)


def test_temporal_split_by_hand():
    """Cuts at days 10 and 20; the comments give the offset of each interaction."""
    interactions = by_days(
        [1, 5, 12, 15, 25, 26],  # 0–5: trains on 0, 1; validation 2; test 4
        [3, 10],  # 6, 7: a cut belongs to the later part
        [2, 4, 20],  # 8–10: nothing between the cuts; test 10
        [11, 22],  # 11, 12: not trained on; tested with the prefix 11
        [30, 31],  # 13, 14: the first target has no prefix
        [1, 2],  # 15, 16: training alone
    )
    split = global_temporal(interactions, ("1970-01-11", "1970-01-21"))
    assert split.train.tolist() == [1, 9, 16]
    assert split.validation.tolist() == [2, 7]
    assert split.test.tolist() == [4, 10, 12]
    assert split.train_end.tolist() == [2, 7, 10, 11, 13, 17]


def test_a_share_cuts_by_the_number_of_interactions():
    interactions = by_days([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    split = global_temporal(interactions, ("0.5", "0.8"))
    assert split.train_end.tolist() == [5]
    assert split.validation.tolist() == [5]
    assert split.test.tolist() == [8]


@given(
    st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=12),
    st.randoms(),
)
def test_the_temporal_split_does_not_depend_on_the_future(histories, random):
    """Items after the test cut, in any order, change neither a part before it nor a prefix."""
    interactions = by_days(*map(sorted, histories))
    cuts = ("1970-01-16", "1970-01-31")
    split = global_temporal(interactions, cuts)
    assert interactions.timestamps is not None
    users, times = interactions.users, interactions.timestamps // DAY
    later = np.flatnonzero(times >= 30)
    moved = interactions.items.copy()
    moved[later] = random.sample(moved[later].tolist(), len(later))
    for part, first, last in ((split.train, 0, 15), (split.validation, 15, 30)):
        assert ((times[part] >= first) & (times[part] < last)).all()
        assert (moved[part] == interactions.items[part]).all()
    assert (times[split.test] >= 30).all()
    for instance in split.test:
        prefix = slice(interactions.indptr[users[instance]], instance)
        assert (times[prefix] < 30).all()
        assert (moved[prefix] == interactions.items[prefix]).all()
        assert prefix.stop > prefix.start


@pytest.mark.parametrize(
    ("cuts", "says"),
    [
        (("0.9", "0.8"), "expected the second after the first"),
        (("1.5", "0.9"), "found '1.5', expected a share between 0 and 1"),
        (("soon", "0.9"), "found 'soon', expected a share between 0 and 1 or an ISO date"),
    ],
)
def test_cuts_that_cannot_be_are_refused(cuts, says):
    with pytest.raises(UserError, match=says):
        global_temporal(by_days([1, 2, 3, 4, 5, 6]), cuts)


def test_an_order_without_a_clock_is_refused():
    interactions = Interactions(np.array([0, 3]), np.arange(3, dtype=np.int32))
    with pytest.raises(UserError, match="Toys: found no Unix timestamps"):
        global_temporal(interactions, name="Toys")


def test_positions_that_disagree_with_the_clock_are_refused():
    with pytest.raises(UserError, match="disagree with their timestamps"):
        global_temporal(by_days([1, 3, 2, 4]))


def by_parts(*histories):
    """Histories as text of t(raining), v(alidation) and (t)e(st)."""
    parts = np.array(["tve".index(part) for text in histories for part in text], dtype=np.int8)
    indptr = np.concatenate([[0], np.cumsum([len(text) for text in histories])])
    return Interactions(indptr.astype(np.int64), np.zeros(len(parts), dtype=np.int32), parts=parts)


def test_the_given_split_by_hand():
    """The comments give the offset of each interaction."""
    split = given_split(
        by_parts(
            "tttve",  # 0–4
            "ttt",  # 5–7: training alone
            "te",  # 8, 9
            "ttv",  # 10–12
            "e",  # 13: a target without a prefix is no instance
            "ve",  # 14, 15: the same of 14; tested with the prefix 14
        )
    )
    assert split.train.tolist() == [1, 2, 6, 7, 11]
    assert split.validation.tolist() == [3, 12]
    assert split.test.tolist() == [4, 9, 15]
    assert split.train_end.tolist() == [3, 8, 9, 12, 13, 14]


@given(st.lists(st.integers(3, 9), min_size=1, max_size=20))
def test_a_given_leave_one_out_is_the_same_split(lengths):
    interactions = by_parts(*("t" * (length - 2) + "ve" for length in lengths))
    one, other = given_split(interactions), leave_one_out(interactions)
    for part in ("train", "validation", "test", "train_end"):
        assert getattr(one, part).tolist() == getattr(other, part).tolist()


@pytest.mark.parametrize(
    ("histories", "says"),
    [
        (("ttve", "tvtve"), "found validation before train in the history of user 1"),
        (("tev",), "found test before validation in the history of user 0"),
        (("tve", "tvee"), "found 2 interactions of user 1 .* in test, expected at most one"),
        (("tvve",), "found 2 interactions of user 0 .* in validation, expected at most one"),
    ],
)
def test_a_given_split_that_is_none_is_refused(histories, says):
    with pytest.raises(UserError, match=f"Toys, column split: {says}"):
        given_split(by_parts(*histories), "Toys")


def test_a_given_split_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="Toys: found no column split, expected one for --split"):
        given_split(by_days([1, 2, 3]), "Toys")


def test_the_digest_tells_whose_first_interaction_is_trained_on():
    # A validation interaction that is a user's first is no instance: the parts are alike.
    learned = by_parts("tttve", "t")
    unseen = by_parts("tttve", "v")
    trained, held_out = given_split(learned), given_split(unseen)
    assert trained.train.tolist() == held_out.train.tolist()
    assert trained.validation.tolist() == held_out.validation.tolist()
    assert split_digest(trained, learned) != split_digest(held_out, unseen)
