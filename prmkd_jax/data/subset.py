"""A data set without some of its items or users, or with further items."""

import dataclasses

import numpy as np
from jaxtyping import Bool

from prmkd_jax.common.ragged import offsets_of
from prmkd_jax.data.dataset import Catalogue, Dataset, Interactions


def without_items(dataset: Dataset, keep: Bool[np.ndarray, " items"]) -> Dataset:
    """The data set in which only some items ever existed; users stay, with shorter histories.

    Args:
        dataset: the complete one.
        keep: True for items that stay; they are numbered in their old order.
    """
    rows = np.flatnonzero(keep)
    number = np.full(dataset.num_items, -1, np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    there = keep[dataset.interactions.items]
    histories = _only(dataset.interactions, there)
    return dataclasses.replace(
        dataset,
        interactions=dataclasses.replace(histories, items=number[histories.items]),
        catalogue=_rows(dataset.catalogue, rows),
        item_ids=tuple(dataset.item_ids[row] for row in rows),
    )


def without_users(dataset: Dataset, keep: Bool[np.ndarray, " users"]) -> Dataset:
    """The data set without some users; its items stay, also those that nobody has left.

    Args:
        dataset: the complete one.
        keep: True for users that stay.
    """
    histories = _only(dataset.interactions, keep[dataset.interactions.users])
    lengths = histories.lengths[keep]
    indptr = offsets_of(lengths)
    ids = tuple(user for user, kept in zip(dataset.user_ids, keep, strict=True) if kept)
    return dataclasses.replace(
        dataset, interactions=dataclasses.replace(histories, indptr=indptr), user_ids=ids
    )


def with_items(dataset: Dataset, ids: tuple[str, ...], titles: tuple[str, ...]) -> Dataset:
    """The data set with further items that nobody has; of their texts only titles are known.

    Args:
        dataset: the data set.
        ids: the further items', none of them its own.
        titles: the further items' titles, "" where unknown.
    """
    known, count = dataset.catalogue, len(ids)
    blank = ("",) * count
    texts = {
        name: (*column, *(titles if name == "title" else blank))
        for name, column in known.texts.items()
    }
    catalogue = dataclasses.replace(
        known,
        texts=texts,
        image_rows=None
        if known.image_rows is None
        else np.pad(known.image_rows, (0, count), constant_values=-1),
        image_paths=None if known.image_paths is None else (*known.image_paths, *blank),
        has_row=None if known.has_row is None else np.pad(known.has_row, (0, count)),
    )
    return dataclasses.replace(dataset, catalogue=catalogue, item_ids=(*dataset.item_ids, *ids))


def _only(histories: Interactions, there: Bool[np.ndarray, " interactions"]) -> Interactions:
    """Some interactions of every user."""
    indptr = offsets_of(there)[histories.indptr]
    return Interactions(
        indptr,
        histories.items[there],
        None if histories.timestamps is None else histories.timestamps[there],
        None if histories.parts is None else histories.parts[there],
    )


def _rows(catalogue: Catalogue, rows: np.ndarray) -> Catalogue:
    return dataclasses.replace(
        catalogue,
        texts={
            name: tuple(column[row] for row in rows) for name, column in catalogue.texts.items()
        },
        image_rows=None if catalogue.image_rows is None else catalogue.image_rows[rows],
        image_paths=None
        if catalogue.image_paths is None
        else tuple(catalogue.image_paths[row] for row in rows),
        has_row=None if catalogue.has_row is None else catalogue.has_row[rows],
    )
