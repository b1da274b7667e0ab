"""An exported student's finished tables: made of its parameters, checked when they are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Int32

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.serve.card import CardFacts
from prmkd_jax.serve.contents import (
    require_columns,
    require_none,
    require_places,
    require_rows,
)
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import ITEM_FIELDS, Facts, Field, without_histories
from prmkd_jax.students.registry import about
from prmkd_jax.students.student import FoldsIn, Params, structure

# Names of the arrays in `SERVED`.
ITEMS, USERS, FOLD_IN, _EDGES, _FIELD = "items", "users", "fold_in", "edges", "field."
# Users whose vectors are made at once.
_BLOCK = 4096


def served_arrays(params: Params, config: StudentConfig, facts: Facts) -> dict[str, np.ndarray]:
    """The finished tables."""
    student = nnx.merge(structure(config, facts), nnx.State(params))
    served = {ITEMS: np.asarray(student.items())}
    if not about(config.student).user_vector_per_prefix:
        blocks = []
        for first in range(0, facts.num_users, _BLOCK):
            users = np.arange(first, min(first + _BLOCK, facts.num_users), dtype=np.int32)
            blocks.append(np.asarray(student.queries(_rows_of_users(users))))
        served[USERS] = np.concatenate(blocks)
        if isinstance(student, FoldsIn):
            served[FOLD_IN] = np.asarray(student.fold_in_items())
    return served


def _rows_of_users(users: Int32[np.ndarray, " n"]) -> PackedRows:
    """Rows for a student whose queries depend on the user alone."""
    users = users[:, None]
    zeros, ones = np.zeros_like(users), np.ones_like(users)
    return PackedRows(zeros, ones, zeros, users, zeros)


def fact_arrays(facts: Facts) -> dict[str, np.ndarray]:
    """What scoring reads of the facts, as arrays."""
    fields = {f"{_FIELD}{name}": field.words for name, field in facts.item_fields.items()}
    return {_EDGES: facts.edges, **fields}


def read_facts(
    sizes: CardFacts, arrays: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]
) -> Facts:
    """The facts of an export: sizes of its card, arrays of `fact_arrays`, names of its ids."""
    second, window = None, sizes["window"]
    if sizes["second_items"] is not None:
        second = without_histories(sizes["second_items"])
    # In the order of training: DeepFM's first layer reads the fields one after another.
    fields = {
        name: Field(tuple(names[name]), arrays[f"{_FIELD}{name}"])
        for name in ITEM_FIELDS
        if name in names
    }
    return Facts(sizes["users"], sizes["items"], window, arrays[_EDGES], fields, second)


def require_served(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    sizes: CardFacts,
    names: Mapping[str, Sequence[str]],
    *,
    users: bool,
) -> None:
    """Refuses tables that don't fit the sizes, and row numbers that point past them.

    Args:
        path: the path of the file.
        arrays: the arrays in the file, by their names.
        sizes: the card's.
        names: the words of each field.
        users: whether the student's user vectors are finished ones, one a user.

    Raises:
        UserError: naming the table.
    """
    most, items = sizes["users"], sizes["items"]
    require_rows(path, arrays, ITEMS, items)
    for name, rows in ((USERS, most), (FOLD_IN, items)):
        if not users:
            require_none(path, arrays, name)
        elif name == USERS or name in arrays:
            require_rows(path, arrays, name, rows)
    require_places(path, arrays, _EDGES, (2, None), np.array([[0, most], [0, items]]))
    for name in ITEM_FIELDS:
        if name in names:
            bounds = (-1, len(names[name]))
            require_places(path, arrays, f"{_FIELD}{name}", (items, None), bounds)


def require_widths(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    like: Params,
    config: StudentConfig,
    facts: Facts,
) -> None:
    """Refuses finished tables of other widths than the student's own; nothing is computed."""

    def made(params: Params) -> dict[str, jax.Array]:
        student = nnx.merge(structure(config, facts), nnx.State(params))
        tables = {ITEMS: student.items()}
        if USERS in arrays:
            tables[USERS] = student.queries(_rows_of_users(np.zeros(1, np.int32)))
        if FOLD_IN in arrays and isinstance(student, FoldsIn):
            tables[FOLD_IN] = student.fold_in_items()
        return tables

    for name, table in jax.eval_shape(made, like).items():
        require_columns(path, arrays, name, table.shape[1])
