"""The data set in memory: item histories as one CSR array, and the catalogue."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float16, Int8, Int32, Int64

from prmkd_jax.common.errors import UserError

TEXT_FIELDS = ("title", "brand", "categories", "description")
LARGEST = 2**31 - 1
"""Interactions and items together: int32 numbers instances, and adds up counts + 1 of the items."""
STATISTICS = ("users", "items", "interactions", "average_length", "sparsity")
"""The columns of the paper's Table 2."""


@dataclasses.dataclass(frozen=True)
class Interactions:
    """All users' histories, oldest item first, in compressed sparse rows.

    An item id is the row of the item in every table (0 … num_items − 1). A padded slot is
    known by its segment id 0, never by an item id, so no table has a padding row.

    Attributes:
        indptr: user u's history is `items[indptr[u]:indptr[u + 1]]`.
        items: item ids. The offset of an item in this array is the id of the *instance*
            (prefix before it → it), for students and teachers alike.
        timestamps: Unix time of each interaction in microseconds, or None where the source has
            no clock. Only a split by time reads it.
        parts: the part that the source gives each interaction, as its place in `splits.PARTS`;
            None where it gives none, or it isn't asked for.
    """

    indptr: Int64[np.ndarray, " users_plus_1"]
    items: Int32[np.ndarray, " interactions"]
    timestamps: Int64[np.ndarray, " interactions"] | None = None
    parts: Int8[np.ndarray, " interactions"] | None = None

    @property
    def num_users(self) -> int:
        """Users, also those without an interaction."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, " users"]:
        """Items in each user's history."""
        return np.diff(self.indptr)

    @cached_property
    def users(self) -> Int32[np.ndarray, " interactions"]:
        """The user of every interaction."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.lengths)


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What is known of the items besides their ids; row = item id.

    Attributes:
        texts: field of `TEXT_FIELDS` → its text for each of the `num_items` items; "" where
            missing.
        image_features: features of the images, a row for each; None where the data set has no
            images.
        image_rows: the row of `image_features` that shows the item, −1 where none does.
        image_text_features: the text tower that matches `image_features`, or None.
        image_paths: file of the item's image, "" where there is none; None without such files.
        image_shape: rows, columns and colours where `image_features` are raw pixels, or None.
        has_row: whether the item has a row in the source's catalogue; None where that isn't known.
        other_rows: ids of the source's catalogue rows that are no items here.
    """

    texts: Mapping[str, tuple[str, ...]]
    image_features: Float16[np.ndarray, "images features"] | None = None
    image_rows: Int32[np.ndarray, " items"] | None = None
    image_text_features: Float16[np.ndarray, "images features"] | None = None
    image_paths: tuple[str, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    has_row: Bool[np.ndarray, " items"] | None = None
    other_rows: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Interactions and catalogue under one numbering, with the ids that the user knows."""

    name: str
    interactions: Interactions
    catalogue: Catalogue
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]

    def __post_init__(self):
        count = len(self.interactions.items) + len(self.item_ids)
        if count > LARGEST:
            raise UserError(
                f"{self.name}: found {count:,} interactions and items together, expected at most "
                f"{LARGEST:,}"
            )

    @property
    def num_items(self) -> int:
        """Items that are ranked: the rows of every item table."""
        return len(self.item_ids)

    @property
    def num_users(self) -> int:
        """Users with a history."""
        return len(self.user_ids)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (first 16 hex digits) over histories, ids, texts and image features.

        Image files are not read for it: who encodes them hashes what is in them. Timestamps
        and given parts aren't either: they act through the order and through the split, which
        has its own hash.
        """
        digest = hashlib.sha256()
        for array in (
            self.interactions.indptr,
            self.interactions.items,
            self.catalogue.image_features,
            self.catalogue.image_rows,
            self.catalogue.image_text_features,
        ):
            # Shape and dtype are part of the content: equal bytes may mean other arrays.
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
        for field in sorted(self.catalogue.texts):
            digest.update(field.encode() + b"\1")
            digest.update("\0".join(self.catalogue.texts[field]).encode() + b"\1")
        for strings in (self.user_ids, self.item_ids):
            digest.update("\0".join(strings).encode() + b"\1")
        return digest.hexdigest()[:16]


def category_names(text: str) -> list[str]:
    """The names in an item's `categories`, in their order.

    A comma parts two names. Where some comma has no space after it, at the end too, one that has
    stands within a name.

    >>> category_names("Tapes, Adhesives & Sealants,Urethane Adhesives")
    ['Tapes, Adhesives & Sealants', 'Urethane Adhesives']
    >>> category_names("Beauty, Hair Care")
    ['Beauty', 'Hair Care']
    >>> category_names("Tapes, Adhesives & Sealants,")
    ['Tapes, Adhesives & Sealants']
    """
    tight = r",(?=\S|$)"
    names = re.split(tight if re.search(tight, text) else ",", text)
    return [name.strip() for name in names if name.strip()]


def table_statistics(interactions: Interactions, num_items: int) -> dict[str, float]:
    """The columns of the paper's Table 2: `STATISTICS` → value, the sparsity as a fraction."""
    users, found = interactions.num_users, len(interactions.items)
    average, filled = found / max(users, 1), found / max(users * num_items, 1)
    return dict(zip(STATISTICS, (users, num_items, found, average, 1 - filled), strict=True))
