"""What is left out of the interactions, in one fixed order, each step with what it removed.

    events ▸ rating ▸ dates ▸ title ▸ duplicates ▸ longest history ▸ k-core ▸ shortest history

Duplicates come before the k-core, so that it counts what stays; users with too long a history
(shops, robots) as well, so that no item lives of them. The shortest history is applied once, at
the end.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.sources.config import PrepareConfig, moment
from prmkd_jax.data.sources.log import Log
from prmkd_jax.data.sources.place import shown

# So many times all rows are looked at for rare ones; a chain of rows would take one for each.
_PASSES = 64


class Step(NamedTuple):
    """One filter's work.

    Attributes:
        name: the filter, as its flags say it.
        removed: interactions that it left out.
        left: interactions after it.
        users: users after it.
        items: items after it.
    """

    name: str
    removed: int
    left: int
    users: int
    items: int


class Ties(NamedTuple):
    """How equal times are ordered: by the rows of the file, or by item id."""

    by_item: bool


def apply(
    log: Log, config: PrepareConfig, ties: Ties, titled: Bool[np.ndarray, " items"] | None
) -> tuple[Log, list[Step]]:
    """Applies the filters that the configuration asks for.

    Args:
        log: all interactions.
        config: the filters' settings.
        ties: the order that "twice in a row" and "the first time" mean.
        titled: items with a title in the catalogue; None without a catalogue.

    Returns:
        The interactions that stay, and one step for each filter that was asked for.

    Raises:
        UserError: a filter needs a column that is not there, or leaves nothing.
    """
    steps = []
    for name, keep in _asked(config, ties, titled):
        before = len(log)
        log = log.take(keep(log))
        step = Step(name, before - len(log), len(log), _distinct(log.users), _distinct(log.items))
        steps.append(step)
        if not len(log):
            raise UserError(f"{name}: found no interaction of {before} left, expected some")
    return log, steps


def in_order(log: Log, ties: Ties) -> Int64[np.ndarray, " rows"]:
    """The rows user by user, oldest first; equal times by item id, or as they stand.

    By item id, what is still equal is ordered by rating and event, and is the same after that. Of
    a given split, training comes before validation and that before the test at equal times.
    """
    if not ties.by_item:
        return np.lexsort((log.times, log.users))
    keys = [log.events, log.ratings, log.items, log.parts, log.times, log.users]
    return np.lexsort([column for column in keys if column is not None])


def _asked(
    config: PrepareConfig, ties: Ties, titled: Bool[np.ndarray, " items"] | None
) -> Iterator[tuple[str, Callable[[Log], np.ndarray]]]:
    """The filters that are asked for: a name, and which rows stay."""
    if config.events:
        yield f"--events={','.join(config.events)}", lambda log: _events(log, config)
    if config.min_rating is not None:
        yield f"--min_rating={config.min_rating:g}", lambda log: _rated(log, config)
    for flag in ("date_from", "date_until"):
        if text := getattr(config, flag):
            yield f"--{flag}={text}", lambda log, flag=flag: _dated(log, config, flag)
    if config.need_title:
        yield "--need_title", lambda log: _titled(log, titled)
    for kind in ("exact", "consecutive", "pairs"):
        if kind in config.deduplicate:
            yield f"--deduplicate={kind}", lambda log, kind=kind: _first_of(log, kind, ties)
    if config.max_history is not None:
        longest = config.max_history
        yield f"--max_history={longest}", lambda log: _counts(log.users)[log.users] <= longest
    if config.user_core or config.item_core:
        name = f"--user_core={config.user_core} --item_core={config.item_core}"
        yield name, lambda log: k_core(log.users, log.items, config.user_core, config.item_core)
    if config.min_history:
        shortest = config.min_history
        yield f"--min_history={shortest}", lambda log: _counts(log.users)[log.users] >= shortest


def k_core(
    users: Integer[np.ndarray, " rows"],
    items: Integer[np.ndarray, " rows"],
    user_core: int,
    item_core: int,
) -> Bool[np.ndarray, " rows"]:
    """Which interactions stay when rare users and items leave, again and again.

    The largest set in which every user has `user_core` interactions and every item `item_core`;
    the order of leaving does not matter.

    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]), 2, 2)
    array([ True,  True,  True,  True, False])
    """
    keep = np.ones(len(users), dtype=bool)
    for _ in range(_PASSES):
        kept_users, kept_items = users[keep], items[keep]
        rare_users = np.bincount(kept_users, minlength=1) < user_core
        rare_items = np.bincount(kept_items, minlength=1) < item_core
        stays = ~(rare_users[kept_users] | rare_items[kept_items])
        if stays.all():
            return keep
        keep[keep] = stays
    keep[keep] = _peeled(users[keep], items[keep], user_core, item_core)
    return keep


def _peeled(
    users: Integer[np.ndarray, " rows"],
    items: Integer[np.ndarray, " rows"],
    user_core: int,
    item_core: int,
) -> Bool[np.ndarray, " rows"]:
    """As `k_core`, one rare user or item after another: each row is looked at twice."""
    num_users = int(users.max(initial=-1)) + 1
    first, second = users.astype(np.int64), items.astype(np.int64) + num_users
    both = np.concatenate([first, second])
    counts = np.bincount(both)
    rows = np.argsort(both, kind="stable") % max(len(users), 1)
    begins = offsets_of(counts)
    wanted = np.full(len(counts), item_core)
    wanted[:num_users] = user_core
    rare = np.flatnonzero((counts > 0) & (counts < wanted)).tolist()
    keep = np.ones(len(users), dtype=bool)
    # A view gives Python's numbers, one at a time, without a copy of them all.
    left, kept, ends = counts.data, keep.data, (first.data, second.data)
    while rare:
        one = rare.pop()
        for row in rows[begins[one] : begins[one + 1]].tolist():
            if not kept[row]:
                continue
            kept[row] = False
            for end in (ends[0][row], ends[1][row]):
                left[end] -= 1
                if left[end] == wanted[end] - 1:
                    rare.append(end)
    return keep


def _events(log: Log, config: PrepareConfig) -> Bool[np.ndarray, " rows"]:
    if log.events is None:
        raise UserError("--events: found no column of events, expected --event_column to name it")
    unknown = sorted(set(config.events) - set(log.event_names))
    if unknown:
        raise UserError(
            f"--events: found {unknown[0]!r}, expected some of {shown(log.event_names)}"
        )
    return np.isin(log.events, [log.event_names.index(name) for name in config.events])


def _rated(log: Log, config: PrepareConfig) -> Bool[np.ndarray, " rows"]:
    if log.ratings is None:
        raise UserError(
            "--min_rating: found no column of ratings, expected --rating_column to name it"
        )
    return log.ratings >= config.min_rating


def _dated(log: Log, config: PrepareConfig, flag: str) -> Bool[np.ndarray, " rows"]:
    if not log.timed:
        raise UserError(f"--{flag}: found interactions without a time, expected times")
    bound = moment(flag, getattr(config, flag))
    return log.times >= bound if flag == "date_from" else log.times < bound


def _titled(log: Log, titled: Bool[np.ndarray, " items"] | None) -> Bool[np.ndarray, " rows"]:
    if titled is None:
        raise UserError("--need_title: found no catalogue, expected one")
    return titled[log.items]


def _first_of(log: Log, kind: str, ties: Ties) -> Int64[np.ndarray, " kept"]:
    """The first row of every group of equals, in the order of the rows."""
    order = np.arange(len(log)) if kind == "exact" else in_order(log, ties)
    if kind == "pairs":
        # The sort is stable: of a pair, the earliest row comes first.
        order = order[np.lexsort((log.items[order], log.users[order]))]
    elif kind == "exact":
        columns = [log.items, log.ratings, log.events]
        keys = [column[order] for column in columns if column is not None]
        order = order[np.lexsort((*keys, log.times[order], log.users[order]))]
    compared = [log.users, log.items]
    if kind == "exact":
        compared += [
            column for column in (log.times, log.ratings, log.events) if column is not None
        ]
    again = np.ones(max(len(order) - 1, 0), dtype=bool)
    for column in compared:
        ordered = column[order]
        same = ordered[1:] == ordered[:-1]
        if ordered.dtype.kind == "f":
            same |= np.isnan(ordered[1:]) & np.isnan(ordered[:-1])
        again &= same
    return np.sort(order[np.concatenate([[True], ~again])])


def _counts(numbers: Integer[np.ndarray, " rows"]) -> Int64[np.ndarray, " numbers"]:
    return np.bincount(numbers)


def _distinct(numbers: Integer[np.ndarray, " rows"]) -> int:
    return int(np.count_nonzero(np.bincount(numbers))) if len(numbers) else 0
