import dataclasses

import jax
import numpy as np
from flax import nnx

from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue
from prmkd_jax.data.packing import history_segments, pack
from prmkd_jax.students.registry import create_student
from tests.students.reference import random_params
from tests.worlds import MAX_SEQ_LEN, facts, random_world, student_config

CONFIG = student_config(student="fm", hidden_size=7)
PLAIN = random_world()
BRANDS = tuple(("", "Acme", "Bolt")[item % 3] for item in range(PLAIN.num_items))
CATEGORIES = tuple(("", "Tools", "Tools,Saws", "Glue,Saws")[item % 4] for item in range(40))
TEXTS = {**dict.fromkeys(TEXT_FIELDS, ("",) * 40), "brand": BRANDS, "categories": CATEGORIES}
WORLD = dataclasses.replace(PLAIN, catalogue=Catalogue(TEXTS))
HISTORIES = WORLD.interactions
SEGMENTS = history_segments(HISTORIES, HISTORIES.indptr[1:], MAX_SEQ_LEN)
GRAPHDEF, STATE = create_student(CONFIG, facts(WORLD), 0)
PARAMS = random_params(nnx.to_pure_dict(STATE), seed=5)


@jax.jit
def scores_of(params, rows):
    """Scores [R, L, V]."""
    student = nnx.merge(GRAPHDEF, nnx.State(params))
    scores = student.score(student.queries(rows), student.items())
    return scores.reshape(*rows.item_seq.shape, -1)


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


def full_fm(instance: int, item: int) -> float:
    """Rendle's equation over all five fields: all pairs, field by field, in float64."""
    tables = jax.tree.map(lambda x: np.asarray(x, dtype=float), PARAMS)
    user = HISTORIES.users[instance]
    first = max(HISTORIES.indptr[user], instance - MAX_SEQ_LEN)
    fields = [
        tables["user_embedding"]["table"][user],
        tables["recent_embedding"]["table"][HISTORIES.items[first:instance]].mean(0),
    ]
    linear = 0.0
    for name, words in words_of(item).items():
        if words:
            fields.append(tables["vectors"][name]["table"][words].mean(0))
            linear += tables["linear"][name]["table"][words].mean()
    pairs = [a @ b for n, a in enumerate(fields) for b in fields[:n]]
    # The pair inside the user's side is the same for all items and is left out.
    return linear + sum(pairs) - fields[0] @ fields[1]


def test_scores_are_rendles_equation():
    """A pair missing or counted twice, a sum for a mean, or another item's words."""
    checked = 0
    for packed in batches()[::4]:
        scores = np.asarray(scores_of(PARAMS, packed))
        for row, column in np.argwhere(packed.instance_ids >= 0)[::3]:
            instance = int(packed.instance_ids[row, column])
            expected = [full_fm(instance, item) for item in range(WORLD.num_items)]
            np.testing.assert_allclose(scores[row, column], expected, atol=2e-5, rtol=0)
            checked += 1
    assert checked > 20


def test_parameters_are_the_tables():
    """A table for a field that no item has, or a linear term of the user's side."""
    sizes = {name: sum(x.size for x in jax.tree.leaves(PARAMS[name])) for name in PARAMS}
    item_side = 40 + 2 + 3
    assert sizes == {
        "user_embedding": 60 * 7,
        "recent_embedding": 40 * 7,
        "vectors": item_side * 7,
        "linear": item_side,
    }
    bare = create_student(CONFIG, facts(PLAIN), 0)[1]
    assert set(nnx.to_pure_dict(bare)["vectors"]) == {"item"}
