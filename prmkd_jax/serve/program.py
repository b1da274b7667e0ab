"""What an exported student computes, as two pure functions of arrays: user vectors and the top k.

The arrays come first and apart, so a program is small, is compiled once and takes newer weights.
Batch, and the number of items that are left out, may be symbolic dimensions of `jax.export`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import KeyPath
from jaxtyping import Bool, Float, Int32

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.top_k import TopK, top_k
from prmkd_jax.serve.exported import Exported
from prmkd_jax.serve.users import with_mean_user
from prmkd_jax.students.registry import about
from prmkd_jax.students.student import (
    Student,
    abstract_params,
    flatten_params,
    is_served,
    structure,
)

Arrays = Mapping[str, Array]

ITEMS = "items"
"""The item table among the arrays of a program."""
_USERS, _FOLD_IN, _PARAMS = "users", "fold_in", "params."


@dataclasses.dataclass(frozen=True)
class Program:
    """The functions of one student.

    Attributes:
        exported: the student.
        k: how many items are given.
    """

    exported: Exported
    k: int

    def __post_init__(self):
        if not self._per_prefix and (self.exported.users is None or self.exported.fold_in is None):
            raise UserError(
                f"{self.exported.card['label']}: found no fold-in, expected a student that can "
                "answer users without a vector"
            )

    @property
    def window(self) -> int | None:
        """Columns of `history`; None where any number will do."""
        return self.exported.facts.window if self._per_prefix else None

    @functools.cached_property
    def width(self) -> int:
        """Width of a user vector."""
        arrays = self.arrays()
        ids = np.zeros((1, self.window or 1), np.int32)
        return jax.eval_shape(self.user_vectors, arrays, ids, ids[:, 0]).shape[-1]

    @property
    def _per_prefix(self) -> bool:
        return about(self.exported.config.student).user_vector_per_prefix

    def arrays(self) -> dict[str, np.ndarray]:
        """All that the functions read, by name; float32."""
        found = {ITEMS: self.exported.items}
        if self._per_prefix:
            found |= {f"{_PARAMS}{name}": array for name, array in self._read_params().items()}
        else:
            own, fold_in = self.exported.users, self.exported.fold_in
            assert own is not None  # see __post_init__
            assert fold_in is not None
            # The row after the last user's stands for users without a vector.
            found |= {_USERS: np.concatenate([own, np.zeros_like(own[:1])]), _FOLD_IN: fold_in}
        return {name: np.asarray(array, np.float32) for name, array in found.items()}

    def user_vectors(
        self, arrays: Arrays, history: Int32[Array, "B H"], users: Int32[Array, " B"]
    ) -> Float[Array, "B D"]:
        """User vectors.

        Args:
            arrays: the arrays that `arrays` gives.
            history: item rows, oldest first, padded with −1 at the end; H is `window`.
            users: rows of the users, −1 where unknown.
        """
        if not self._per_prefix:
            return self._own_vectors(arrays, history, users)
        known = len(self.exported.user_ids or ())
        owners = jnp.where((users >= 0) & (users < known), users, known)
        own_slot = about(self.exported.config.student).own_slot
        rows, slots = _packed(history, owners, own_slot)
        return self._student(arrays).queries(rows)[slots]

    def recommend(
        self,
        arrays: Arrays,
        history: Int32[Array, "B H"],
        users: Int32[Array, " B"],
        excluded: Int32[Array, "B E"],
    ) -> tuple[Int32[Array, "B k"], Float[Array, "B k"]]:
        """The k best items and their scores; item −1 and score −inf where no more are left.

        Args:
            arrays: the arrays that `arrays` gives.
            history: item rows, oldest first, padded with −1 at the end.
            users: rows of the users, −1 where unknown.
            excluded: item rows to leave out, padded with −1: the complete history, say.
        """
        answered = self.answered(history, users)
        best = self._best(arrays, self.user_vectors(arrays, history, users), excluded)
        items = jnp.where(answered, best.items, -1).astype(jnp.int32)
        return items, jnp.where(answered, best.scores, -jnp.inf)

    def _best(self, arrays: Arrays, queries: Array, excluded: Array) -> TopK:
        score = self._student(arrays).score
        return top_k(score, queries, arrays[ITEMS], self.k, excluded=excluded)

    def score(self, arrays: Arrays, queries: Float[Array, "B D"]) -> Float[Array, "B V"]:
        """The scores of all items, float32."""
        return self._student(arrays).score(queries, arrays[ITEMS])

    def answered(
        self, history: Int32[Array, "B H"], users: Int32[Array, " B"]
    ) -> Bool[Array, "B 1"]:
        """Whether there is anything to go by: an item, or a vector of the user's own."""
        answered = (history >= 0).any(axis=1)
        if not self._per_prefix:
            answered |= (users >= 0) & (users < len(self.exported.user_ids or ()))
        return answered[:, None]

    def _own_vectors(self, arrays: Arrays, history: Array, users: Array) -> Array:
        """The users' own vectors, or Σ f_i / √n over the n distinct items of their histories."""
        own, fold_in = arrays[_USERS], arrays[_FOLD_IN]
        last = own.shape[0] - 1
        is_known = (users >= 0) & (users < last)
        # An item counts where it comes first.
        same = history[:, :, None] == history[:, None, :]
        earlier = jnp.tri(history.shape[1], k=-1, dtype=bool)
        first = (history >= 0) & ~(same & earlier).any(axis=2)
        count = jnp.maximum(first.sum(axis=1, keepdims=True), 1).astype(fold_in.dtype)
        gathered = fold_in[jnp.maximum(history, 0)] * first[..., None]
        return jnp.where(
            is_known[:, None],
            own[jnp.where(is_known, users, last)],
            gathered.sum(axis=1) / jnp.sqrt(count),
        )

    def _student(self, arrays: Arrays) -> Student:
        """The student with its parameters; those that nothing here reads are zero."""

        def place(path: KeyPath, leaf: jax.ShapeDtypeStruct) -> Array:
            name = f"{_PARAMS}{jax.tree_util.keystr(path, simple=True, separator='.')}"
            return arrays[name] if name in arrays else jnp.zeros(leaf.shape, leaf.dtype)

        config, facts = self.exported.config, self.exported.facts
        like = abstract_params(config, facts)
        params = jax.tree_util.tree_map_with_path(place, like)
        return nnx.merge(structure(config, facts), nnx.State(params))

    def _read_params(self) -> dict[str, np.ndarray]:
        """The parameters that serving reads; user tables with a row for the mean user."""
        student = self.exported.config.student
        weights = flatten_params(with_mean_user(self.exported.params))
        return {name: array for name, array in weights.items() if is_served(student, name)}


def array_specs(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a program's arrays."""
    return {name: jax.ShapeDtypeStruct(each.shape, each.dtype) for name, each in arrays.items()}


def _packed(history: Array, users: Array, own_slot: bool) -> tuple[PackedRows, Array]:
    """`serve.rows.history_rows` in JAX, for histories that are arrays already."""
    lengths = jnp.maximum((history >= 0).sum(axis=1) + own_slot, 1).astype(jnp.int32)
    items = jnp.maximum(history, 0)
    if own_slot:
        items = jnp.concatenate([items, jnp.zeros_like(items[:, :1])], axis=1)
    columns = jnp.arange(items.shape[1], dtype=jnp.int32)[None]
    filled = columns < lengths[:, None]
    zeros = jnp.zeros_like(items)
    columns_of = {
        "item_seq": items,
        "segment_ids": filled.astype(jnp.int32),
        "positions": jnp.where(filled, columns, zeros),
        "users": jnp.where(filled, users[:, None], zeros),
        "instance_ids": jnp.where(columns == lengths[:, None] - 1, 0, -1),
    }
    # The record is declared for NumPy; traced arrays go through it as they do in training.
    rows = PackedRows(**cast(dict[str, Any], columns_of))
    starts = jnp.arange(items.shape[0], dtype=jnp.int32) * items.shape[1]
    return rows, starts + lengths - 1
