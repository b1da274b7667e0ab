"""Yesterday's student for today's data: rows matched by id, and rows for what is new.

A parameter's rows that stand for items, for users or for the words of a field are found by the
shapes that the student has with one more of them, so any student's are, also a user's own.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.weights import require_weights
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.exported import Exported
from prmkd_jax.serve.new_items import Map, extend
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts, Field
from prmkd_jax.students.student import (
    Params,
    abstract_params,
    flatten_params,
    larger_axes,
    param_shapes,
    unflatten_params,
)

ITEMS, USERS = "items", "users"


class Changes(NamedTuple):
    """What has changed since yesterday.

    Attributes:
        kept_items: ids of today's items that yesterday's student knows, in its order.
        new_items: ids of today's items that it doesn't know, in today's order.
        vanished_items: ids that only it knows.
        new_users: how many of today's users have no vector, where users have any; else None.
        vanished_users: how many users' vectors are dropped; None likewise.
    """

    kept_items: tuple[str, ...]
    new_items: tuple[str, ...]
    vanished_items: tuple[str, ...]
    new_users: int | None
    vanished_users: int | None


class Mapped(NamedTuple):
    """The student with rows for the new items, before any training.

    Attributes:
        exported: rows in the order of today's items; users as they were.
        map: how the new rows were made; None where there are none, or mean rows.
    """

    exported: Exported
    map: Map | None


def changes(exported: Exported, dataset: Dataset) -> Changes:
    """Compares ids.

    Raises:
        UserError: no item is common.
    """
    today = set(dataset.item_ids)
    known = set(exported.item_ids)
    kept = tuple(item for item in exported.item_ids if item in today)
    if not kept:
        raise UserError(
            f"--dataset: found no item of {dataset.name} among the {len(known)} of the student in "
            f"--from (such as {exported.item_ids[0]!r}; here {dataset.item_ids[0]!r}), expected "
            "the same ids"
        )
    new_users = vanished_users = None
    if exported.user_ids is not None:
        before, now = set(exported.user_ids), set(dataset.user_ids)
        new_users, vanished_users = len(now - before), len(before - now)
    return Changes(
        kept_items=kept,
        new_items=tuple(item for item in dataset.item_ids if item not in known),
        vanished_items=tuple(item for item in exported.item_ids if item not in today),
        new_users=new_users,
        vanished_users=vanished_users,
    )


def map_items(
    exported: Exported,
    found: Changes,
    dataset: Dataset,
    vectors: Float[np.ndarray, "V d"] | None,
) -> Mapped:
    """The student with a row for each of today's items and no other.

    Args:
        exported: yesterday's.
        found: the differences between yesterday's items and users and today's.
        dataset: today's.
        vectors: vectors of today's items, in their order; None gives all new items the mean row.
    """
    small = only_items(exported, found.kept_items)
    titles = _titles(dataset, found.new_items)
    chosen = None
    if not found.new_items:
        larger = small
    elif vectors is None:
        larger = extend(small, found.new_items, titles, _mean_rows(len(found.new_items)))
    else:
        row_of = {item: row for row, item in enumerate(dataset.item_ids)}
        known, new = (
            vectors[[row_of[item] for item in ids]] for ids in (small.item_ids, found.new_items)
        )
        recommender = Recommender(small).add_items(found.new_items, new, known, titles=titles)
        larger = recommender.exported
        chosen = recommender.map
    return Mapped(only_items(larger, dataset.item_ids), chosen)


def only_items(exported: Exported, ids: Sequence[str]) -> Exported:
    """The student with some of its items, in another order.

    Args:
        exported: the student; it stays as it is.
        ids: the ids of items that the student knows, in the new order.
    """
    row_of = {item: row for row, item in enumerate(exported.item_ids)}
    rows = np.array([row_of[item] for item in ids])
    facts = dataclasses.replace(
        exported.facts,
        num_items=len(rows),
        item_fields={
            name: Field(field.names, field.words[rows])
            for name, field in exported.facts.item_fields.items()
        },
    )
    weights = flatten_params(exported.params)
    axes = table_axes(exported.config, exported.facts)[ITEMS]
    taken = {name: _take(array, axes.get(name, ()), rows) for name, array in weights.items()}
    titles = exported.titles
    return dataclasses.replace(
        exported,
        facts=facts,
        params=unflatten_params(taken, abstract_params(exported.config, facts)),
        items=exported.items[rows],
        fold_in=None if exported.fold_in is None else exported.fold_in[rows],
        item_ids=tuple(ids),
        titles=None if titles is None else tuple(titles[row] for row in rows),
    )


def params_for(
    exported: Exported, config: StudentConfig, facts: Facts, dataset: Dataset, source: str
) -> Params:
    """The parameters for today's data: where training goes on.

    Rows of users and of words are matched too; a new one begins at the mean of the known.

    Args:
        exported: yesterday's with today's items, in their order.
        config: today's settings.
        facts: today's.
        dataset: today's.
        source: yesterday's student's name in error messages.

    Raises:
        UserError: a parameter has another shape than today's.
    """
    weights = flatten_params(exported.params)
    axes = table_axes(exported.config, exported.facts)
    fields = exported.facts.item_fields
    known: dict[str, Sequence[str]] = {name: field.names for name, field in fields.items()}
    today: dict[str, Sequence[str]] = {n: field.names for n, field in facts.item_fields.items()}
    if exported.user_ids is not None:
        known[USERS], today[USERS] = exported.user_ids, dataset.user_ids
    for kind in known.keys() & today.keys():
        rows = _rows_of(known[kind], today[kind])
        weights = {name: _take(x, axes[kind].get(name, ()), rows) for name, x in weights.items()}
    like = abstract_params(config, facts)
    require_weights({name: x.shape for name, x in weights.items()}, param_shapes(like), source)
    return unflatten_params(weights, like)


def table_axes(config: StudentConfig, facts: Facts) -> dict[str, dict[str, tuple[int, ...]]]:
    """Which axes of which parameters have a row for each item, user, or word of a field.

    Returns:
        `ITEMS`, `USERS` or the field's name → parameter → its axes.
    """
    padded = {
        name: Field(field.names, np.pad(field.words, ((0, 1), (0, 0)), constant_values=-1))
        for name, field in facts.item_fields.items()
    }
    larger = {
        ITEMS: dataclasses.replace(facts, num_items=facts.num_items + 1, item_fields=padded),
        USERS: dataclasses.replace(facts, num_users=facts.num_users + 1),
    }
    for name, field in facts.item_fields.items():
        more = {**facts.item_fields, name: Field((*field.names, "\0"), field.words)}
        larger[name] = dataclasses.replace(facts, item_fields=more)
    return {kind: larger_axes(config, facts, other) for kind, other in larger.items()}


def _take(array: np.ndarray, axes: Sequence[int], rows: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Rows along some axes; the mean of all where a row is negative."""
    for axis in axes:
        mean = array.mean(axis, keepdims=True, dtype=np.float64).astype(array.dtype)
        with_mean = np.concatenate([array, mean], axis)
        array = np.take(with_mean, np.where(rows < 0, array.shape[axis], rows), axis)
    return array


def _rows_of(known: Sequence[str], wanted: Sequence[str]) -> Int64[np.ndarray, " n"]:
    row_of = {one: row for row, one in enumerate(known)}
    return np.array([row_of.get(one, -1) for one in wanted], np.int64)


def _mean_rows(count: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda table: np.repeat(table.mean(0, keepdims=True), count, axis=0)


def _titles(dataset: Dataset, ids: Sequence[str]) -> list[str] | None:
    titles = dataset.catalogue.texts.get("title", ())
    if not any(titles):
        return None
    title_of = dict(zip(dataset.item_ids, titles, strict=True))
    return [title_of[item] for item in ids]
