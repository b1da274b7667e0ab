"""A world whose items have brands and categories, and what FM and DeepFM read of it, by hand."""

import dataclasses

import jax
import numpy as np

from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue
from prmkd_jax.data.packing import history_segments, pack
from tests.worlds import MAX_SEQ_LEN, random_world

PLAIN = random_world()
BRANDS = tuple(("", "Acme", "Bolt")[item % 3] for item in range(PLAIN.num_items))
CATEGORIES = tuple(("", "Tools", "Tools,Saws", "Glue,Saws")[item % 4] for item in range(40))
TEXTS = {**dict.fromkeys(TEXT_FIELDS, ("",) * 40), "brand": BRANDS, "categories": CATEGORIES}
WORLD = dataclasses.replace(PLAIN, catalogue=Catalogue(TEXTS))
HISTORIES = WORLD.interactions
SEGMENTS = history_segments(HISTORIES, HISTORIES.indptr[1:], MAX_SEQ_LEN)


def batches():
    return list(pack(HISTORIES, SEGMENTS, 5, 13))


def words_of(item: int) -> dict[str, list[int]]:
    """An item's words by field, in sorted vocabularies."""
    brand, categories = BRANDS[item], [c for c in CATEGORIES[item].split(",") if c]
    return {
        "item": [item],
        "brand": [["Acme", "Bolt"].index(brand)] if brand else [],
        "categories": [["Glue", "Saws", "Tools"].index(c) for c in categories],
    }


def in_float64(params):
    return jax.tree.map(lambda x: np.asarray(x, dtype=float), params)


def field_vectors(tables: dict, instance: int, item: int) -> list[np.ndarray]:
    """User, recent items, item, brand, categories; an unknown one is zero."""
    user = HISTORIES.users[instance]
    first = max(HISTORIES.indptr[user], instance - MAX_SEQ_LEN)
    vectors = [
        tables["user_embedding"]["table"][user],
        tables["recent_embedding"]["table"][HISTORIES.items[first:instance]].mean(0),
    ]
    for name, words in words_of(item).items():
        table = tables["vectors"][name]["table"]
        vectors.append(table[words].mean(0) if words else np.zeros(table.shape[1]))
    return vectors


def rendle(tables: dict, instance: int, item: int) -> float:
    """Rendle's equation over all five fields: all pairs, field by field, in float64."""
    fields = field_vectors(tables, instance, item)
    linear = sum(
        tables["linear"][name]["table"][words].mean()
        for name, words in words_of(item).items()
        if words
    )
    pairs = [a @ b for n, a in enumerate(fields) for b in fields[:n]]
    # The pair inside the user's side is the same for all items and is left out.
    return linear + sum(pairs) - fields[0] @ fields[1]
