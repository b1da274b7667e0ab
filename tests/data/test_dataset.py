import dataclasses

import numpy as np
import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue, Dataset, Interactions, table_statistics

INTERACTIONS = Interactions(
    np.array([0, 3, 3, 5], dtype=np.int64), np.array([0, 1, 2, 1, 3], dtype=np.int32)
)
CATALOGUE = Catalogue(
    {"title": ("a", "b", "c", "d"), "brand": ("", "x", "", "y")},
    np.array([[1, 2], [3, 4]], dtype=np.float16),
    np.array([1, -1, -1, 0], dtype=np.int32),
    np.array([[1, 2], [3, 5]], dtype=np.float16),
)
DATASET = Dataset("toy", INTERACTIONS, CATALOGUE, ("u", "v", "w"), ("i", "j", "k", "l"))


def test_interactions_by_hand():
    """An empty history in between shifts no user."""
    assert INTERACTIONS.num_users == 3
    assert INTERACTIONS.lengths.tolist() == [3, 0, 2]
    assert INTERACTIONS.users.tolist() == [0, 0, 0, 2, 2]
    assert INTERACTIONS.users.dtype == np.int32


def test_more_than_int32_can_number_is_refused():
    """Instances are numbered in int32: a number beyond it would stand for another instance."""
    many = np.broadcast_to(np.zeros(1, np.int32), 2**31 - 4)
    histories = Interactions(np.array([0, len(many)]), many)
    with pytest.raises(UserError, match="toy: found 2,147,483,648 interactions and items together"):
        Dataset("toy", histories, CATALOGUE, ("u",), ("i", "j", "k", "l"))
    assert Dataset("toy", histories, CATALOGUE, ("u",), ("i", "j", "k")).num_items == 3


def test_table_statistics_by_hand():
    """Table 2 of the paper: 5 interactions of 3 users and 4 items."""
    expected = {
        "users": 3,
        "items": 4,
        "interactions": 5,
        "average_length": 5 / 3,
        "sparsity": 1 - 5 / 12,
    }
    assert table_statistics(DATASET.interactions, DATASET.num_items) == pytest.approx(
        expected, rel=1e-12
    )
    assert list(table_statistics(DATASET.interactions, DATASET.num_items)) == list(expected)


def with_catalogue(**changes) -> Dataset:
    return dataclasses.replace(DATASET, catalogue=dataclasses.replace(CATALOGUE, **changes))


def with_interactions(**changes) -> Dataset:
    return dataclasses.replace(DATASET, interactions=dataclasses.replace(INTERACTIONS, **changes))


VARIANTS = {
    "order of the history": with_interactions(items=np.array([0, 2, 1, 1, 3], dtype=np.int32)),
    "who read what": with_interactions(indptr=np.array([0, 3, 5, 5], dtype=np.int64)),
    "user id": dataclasses.replace(DATASET, user_ids=("u", "v", "x")),
    "item id": dataclasses.replace(DATASET, item_ids=("i", "j", "k", "m")),
    "cut of ids": dataclasses.replace(
        DATASET, user_ids=("u", "v", "w", "i"), item_ids=("j", "k", "l")
    ),
    "text": with_catalogue(texts={**CATALOGUE.texts, "title": ("a", "b", "c", "e")}),
    "which field": with_catalogue(
        texts={"title": CATALOGUE.texts["brand"], "brand": CATALOGUE.texts["title"]}
    ),
    "field's name": with_catalogue(
        texts={"title": CATALOGUE.texts["title"], "categories": CATALOGUE.texts["brand"]}
    ),
    "image": with_catalogue(image_features=np.array([[1, 2], [3, 5]], dtype=np.float16)),
    "images' shape": with_catalogue(
        image_features=CATALOGUE.image_features.reshape(1, 4),
        image_text_features=CATALOGUE.image_text_features.reshape(1, 4),
    ),
    "image's row": with_catalogue(image_rows=np.array([1, 0, -1, 0], dtype=np.int32)),
    "no image text": with_catalogue(image_text_features=None),
    "tower": with_catalogue(image_features=None, image_text_features=CATALOGUE.image_features),
}


@pytest.mark.parametrize("change", VARIANTS)
def test_fingerprint_notices(change):
    """Any change of the data gives another key, so cached teacher vectors aren't reused."""
    assert VARIANTS[change].fingerprint != DATASET.fingerprint


def test_fingerprint_ignores_name_and_order_of_fields():
    """The same data under another name, or from another reader, hit the cache."""
    texts = dict(reversed(list(CATALOGUE.texts.items())))
    same = dataclasses.replace(with_catalogue(texts=texts), name="renamed")
    assert same.fingerprint == DATASET.fingerprint
    assert len(DATASET.fingerprint) == 16
    assert int(DATASET.fingerprint, 16) >= 0
