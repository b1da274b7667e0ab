"""Which instances are trained on, which choose and which report.

Three splits: leave-one-out, by each user's own order; the one that the source gives; and global
temporal, by one clock for all.
"""

import dataclasses
import hashlib
from datetime import UTC, datetime

import numpy as np
from jaxtyping import Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.dataset import Interactions

PARTS = ("train", "validation", "test")
Cut = str | int
"""The share of all interactions before it ("0.8"), an ISO date or time, or a moment: the first
microsecond after it."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Instance ids (offset of the target in the CSR) of the three parts.

    Attributes:
        train: every position but a user's first that lies in the training part.
        validation: instances, at most one a user.
        test: instances, at most one a user; the prefix includes the validation item.
        train_end: user u trains on `items[indptr[u]:train_end[u]]` and nothing else.
        validation_end: the end of user u's validation part: up to here u's items are added to the
            training where a student is trained again before it is served (`with_validation`).
    """

    train: Int64[np.ndarray, " train"]
    validation: Int64[np.ndarray, " validation"]
    test: Int64[np.ndarray, " test"]
    train_end: Int64[np.ndarray, " users"]
    validation_end: Int64[np.ndarray, " users"]


def with_validation(split: Split, interactions: Interactions) -> Split:
    """The split whose training part holds the validation part too; the test part is the same."""
    train = instances_before(interactions, split.validation_end)
    return dataclasses.replace(split, train=train, train_end=split.validation_end)


def instances_before(
    interactions: Interactions, end: Int64[np.ndarray, " users"]
) -> Int64[np.ndarray, " instances"]:
    """The instances of each user before an offset: all interactions but the user's first."""
    offsets, users = np.arange(len(interactions.items)), interactions.users
    return np.flatnonzero((offsets > interactions.indptr[users]) & (offsets < end[users]))


def leave_one_out(interactions: Interactions) -> Split:
    """Last item for the test, the one before it for validation, the rest for training.

    As UniSRec and Recformer split. A user with fewer than three items has
    no item left to learn from under this rule: all of the history is training data.

    >>> histories = Interactions(np.array([0, 5, 7]), np.arange(7, dtype=np.int32))
    >>> split = leave_one_out(histories)
    >>> split.train.tolist(), split.validation.tolist(), split.test.tolist()
    ([1, 2, 6], [3], [4])
    """
    start, end = interactions.indptr[:-1], interactions.indptr[1:]
    held_out = (end - start) >= 3
    train_end = np.where(held_out, end - 2, end)
    return Split(
        train=instances_before(interactions, train_end),
        validation=(end - 2)[held_out],
        test=(end - 1)[held_out],
        train_end=train_end,
        validation_end=np.where(held_out, end - 1, end),
    )


def given(interactions: Interactions, name: str = "the data set") -> Split:
    """The split that the source gives: each interaction's part.

    A user's training interactions come first, then at most one of validation, then at most one of
    the test. A validation or test interaction that is a user's first has no prefix, and so is no
    instance.

    Args:
        interactions: histories with `parts`.
        name: the data set's name in error messages.

    Raises:
        UserError: the parts are missing, out of order, or a user has two instances to validate or
            to test on.
    """
    parts = interactions.parts
    if parts is None:
        raise UserError(
            f"{name}: found no column split, expected one for --split=given (prepare writes it "
            "where the source's split isn't leave-one-out)"
        )
    start, users = interactions.indptr[:-1], interactions.users
    counts = np.zeros((interactions.num_users, len(PARTS)), dtype=np.int64)
    np.add.at(counts, (users, parts), 1)
    late = np.flatnonzero((users[1:] == users[:-1]) & (parts[1:] < parts[:-1]))
    if len(late):
        before, after = PARTS[parts[late[0]]], PARTS[parts[late[0] + 1]]
        raise UserError(
            f"{name}, column split: found {before} before {after} in the history of user "
            f"{int(users[late[0]])} (counted from 0), expected train, then validation, then test"
        )
    for part in (1, 2):
        several = np.flatnonzero(counts[:, part] > 1)
        if len(several):
            user = int(several[0])
            raise UserError(
                f"{name}, column split: found {counts[user, part]} interactions of user {user} "
                f"(counted from 0) in {PARTS[part]}, expected at most one"
            )
    offsets = np.arange(len(interactions.items), dtype=np.int64)
    train, validation, test = (
        offsets[(parts == part) & (offsets > start[users])] for part in range(3)
    )
    train_end = start + counts[:, 0]
    return Split(train, validation, test, train_end, validation_end=train_end + counts[:, 1])


def global_temporal(
    interactions: Interactions, cuts: tuple[Cut, Cut] = ("0.8", "0.9"), name: str = "the data set"
) -> Split:
    """Trains on what happened before the first cut, validates after it, tests after the second.

    - Training part: interactions before the first cut, of all users.
    - Validation instance of a user: the first interaction at or after the first cut and before
      the second, if the user has one earlier interaction or more.
    - Test instance: the first interaction at or after the second cut, likewise. Its prefix holds
      all earlier interactions of the user, those between the cuts too, and nothing at or after
      the second cut.

    So no model sees an interaction, of any user, that is later than what it has to predict, but
    for those of the validation period in test prefixes, which lie before the test period. Users
    whose first interaction is after the first cut are not trained on, yet are tested with their
    prefix. Items that first occur after the first cut are candidates that nothing was learned of.

    Args:
        interactions: histories with timestamps that never fall within a history.
        cuts: each a share ("0.8"), an ISO date or time ("2018-06-01", UTC where it has no zone),
            or a moment in microseconds (see `moments`).
        name: the data set's name in error messages.

    Raises:
        UserError: as `moments`.

    >>> day = 86_400 * 10**6
    >>> times = 17_000 * day + day * np.array([0, 1, 8, 9, 2, 3, 4, 5, 6, 7])
    >>> histories = Interactions(np.array([0, 4, 10]), np.arange(10, dtype=np.int32), times)
    >>> split = global_temporal(histories, ("0.8", "0.9"))
    >>> split.train.tolist(), split.validation.tolist(), split.test.tolist()
    ([1, 5, 6, 7, 8, 9], [2], [3])
    """
    first, second = moments(interactions, cuts, name)
    start, end = interactions.indptr[:-1], interactions.indptr[1:]
    train_end = start + _before(interactions, first)
    test_from = start + _before(interactions, second)
    return Split(
        train=instances_before(interactions, train_end),
        validation=train_end[(train_end > start) & (train_end < test_from)],
        test=test_from[(test_from > start) & (test_from < end)],
        train_end=train_end,
        validation_end=test_from,
    )


def moments(
    interactions: Interactions, cuts: tuple[Cut, Cut], name: str = "the data set"
) -> tuple[int, int]:
    """The first microseconds after two cuts.

    A share means another moment in a part of the data: who divides a part as the whole is divided
    hands the whole's moments on.

    Args:
        interactions: histories with timestamps that never fall within a history.
        cuts: the moments to divide at, as in `global_temporal`.
        name: the data set's name in error messages.

    Raises:
        UserError: there is no clock, a history's order disagrees with it, a cut can't be read, or
            the second is not after the first.
    """
    times = _clock(interactions, name)
    first, second = (_cut(cut, times) for cut in cuts)
    if not first < second:
        raise UserError(
            f"--split_at: found {','.join(map(str, cuts))}, cuts at {_date(first)} and "
            f"{_date(second)}, expected the second after the first"
        )
    return first, second


def _clock(interactions: Interactions, name: str) -> Int64[np.ndarray, " interactions"]:
    """The interactions' times.

    Raises:
        UserError: there are none, or a history's order disagrees with them.
    """
    times = interactions.timestamps
    if times is None:
        raise UserError(
            f"{name}: found no Unix timestamps, expected them for --split=temporal (an order alone "
            "is no clock that users share)"
        )
    same_user = interactions.users[1:] == interactions.users[:-1]
    if (same_user & (times[1:] < times[:-1])).any():
        raise UserError(
            f"{name}: found histories whose positions disagree with their timestamps, expected "
            "timestamps that never fall, for --split=temporal"
        )
    return times


def _cut(cut: Cut, times: Int64[np.ndarray, " interactions"]) -> int:
    """The first microsecond after a cut."""
    if isinstance(cut, int):
        return cut
    try:
        share = float(cut)
    except ValueError:
        try:
            moment = datetime.fromisoformat(cut)
        except ValueError:
            raise UserError(
                f"--split_at: found {cut!r}, expected a share between 0 and 1 or an ISO date"
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1e6)
    if not 0 < share < 1:
        raise UserError(f"--split_at: found {cut!r}, expected a share between 0 and 1")
    place = min(round(share * len(times)), len(times) - 1)
    return int(np.partition(times, place)[place])


def _before(interactions: Interactions, cut: int) -> Int64[np.ndarray, " users"]:
    """How many interactions of each user are before a time."""
    assert interactions.timestamps is not None
    earlier = offsets_of(interactions.timestamps < cut)
    return earlier[interactions.indptr[1:]] - earlier[interactions.indptr[:-1]]


def _date(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat(timespec="seconds")


def split_digest(split: Split, interactions: Interactions) -> str:
    """SHA-256 over the three parts, in hex."""
    digest = hashlib.sha256()
    for part in (split.train, split.validation, split.test):
        digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes() + b"|")
    # The parts are instances, and a user's first interaction is never one: whether it belongs to
    # the training part has to be told. By leave-one-out it always does.
    start, end = interactions.indptr[:-1], interactions.indptr[1:]
    (untrained,) = np.nonzero((split.train_end == start) & (end > start))
    if len(untrained):
        digest.update(untrained.astype(np.int64).tobytes() + b"|")
    return digest.hexdigest()


def require_parts(name: str, split: Split) -> None:
    """Refuses a data set of which a part is empty.

    Raises:
        UserError: nobody has four items or more, say.
    """
    sizes = {part: len(getattr(split, part)) for part in PARTS}
    if not all(sizes.values()):
        raise UserError(f"data set {name}: found {sizes} instances, expected some in each")
