"""A step on the rows of the item tables that it needs (`--lazy_adam`).

The gradient of a table of V rows is as large as the table, and so are Adam's moments; a batch
reads some thousand rows. Here these rows are taken out, differentiated, updated with their own
moments and put back, so a step costs the same for any catalogue. The rows of other items stay as
they are: neither their moments fade nor their weights, where dense Adam would move them on. (As
TensorFlow's LazyAdam and PyTorch's SparseAdam; the correction of the first steps counts all.)
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jaxtyping import Int

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import Batch
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.registry import about, loss_name
from prmkd_jax.students.tables import Table, is_table
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.inputs import DistillBatch
from prmkd_jax.train.objective import loss_of
from prmkd_jax.train.run import Run

TreeT = TypeVar("TreeT")


class ItemTables(NamedTuple):
    """Parameters with one row an item.

    Attributes:
        names: the tables' dotted names.
        num_items: rows of each.
    """

    names: tuple[str, ...]
    num_items: int

    def has(self, path: KeyPath) -> bool:
        """Whether a leaf of parameters, or of a state with their moments, is one of them."""
        return is_table(path, tuple(Table(name, self.num_items) for name in self.names)) > 0


def lazy_tables(run: Run) -> ItemTables | None:
    """The tables whose rows are updated one by one; None for dense Adam.

    Raises:
        UserError: as `check_lazy`.
    """
    check_lazy(run.student, run.train, run.distill)
    if not run.train.lazy_adam:
        return None
    return ItemTables(about(run.student.student).item_tables, run.facts.num_items)


def check_lazy(student: StudentConfig, train: TrainConfig, distill: DistillConfig | None) -> None:
    """Checks that a step with `--lazy_adam` reads some items alone.

    Args:
        student: the student's settings, with the loss that it learns by.
        train: says whether Adam is lazy.
        distill: the distillation; None for the plain student.

    Raises:
        UserError: the student, its loss or the distillation reads every item in a step.
    """
    if not train.lazy_adam:
        return
    if not about(student.student).rows_alone:
        raise UserError(
            f"--lazy_adam: found true with --student={student.student}, expected sasrec, gru4rec "
            "or another student that knows an item by its row alone (rows_alone of its About)"
        )
    if loss_of(student).draw is None:
        raise UserError(
            f"--lazy_adam: found true with --loss={loss_name(student)}, which reads every item in "
            "each step, expected sampled_softmax, uniform_softmax, gbce or bpr"
        )
    if distill is not None and distill.negatives == "catalogue":
        raise UserError(
            "--lazy_adam: found true with --negatives=catalogue, which reads every item in each "
            "step, expected in_batch or closed"
        )


def needed_items(
    batch: Batch, distill: DistillBatch | None, drawn: Int[Array, " S"], num_items: int
) -> Int[Array, " M"]:
    """The distinct items that a step reads, ascending, padded with distinct ids from V on.

    What stands at padding, item 0, is not read.

    Args:
        batch: reads the items in its slots, and its targets.
        distill: reads its columns.
        drawn: items that the loss has drawn.
        num_items: V.
    """
    parts = [(batch.rows.item_seq, batch.rows.segment_ids > 0), (batch.targets, batch.is_instance)]
    if distill is not None:
        parts.append((distill.columns.candidates, distill.columns.valid.any(axis=0)))
    masked = [
        jnp.where(read, part, num_items).reshape(-1).astype(jnp.int32) for part, read in parts
    ]
    items = jnp.concatenate([*masked, jnp.asarray(drawn).astype(jnp.int32)])
    size = len(items)
    ids = jnp.unique(items, size=size, fill_value=num_items)
    return jnp.where(ids < num_items, ids, num_items + jnp.arange(size, dtype=ids.dtype))


def take_rows(tree: TreeT, tables: ItemTables, ids: Int[Array, " M"]) -> TreeT:
    """Parameters, or Adam's moments, with only these rows of the tables.

    Args:
        tree: parameters as nested dictionaries, or a state that holds such dictionaries.
        tables: the tables whose rows are taken; the other leaves stay complete.
        ids: item ids, from `needed_items`; rows at padding mean nothing.
    """

    def take(path: KeyPath, leaf: Array) -> Array:
        return leaf.at[ids].get(mode="clip") if tables.has(path) else leaf

    return jax.tree_util.tree_map_with_path(take, tree)


def put_rows(tree: TreeT, rows: TreeT, tables: ItemTables, ids: Int[Array, " M"]) -> TreeT:
    """The inverse of `take_rows`: the tree with these rows replaced; those at padding are dropped.

    Args:
        tree: parameters or a state, as in `take_rows`.
        rows: the taken rows after the step; other leaves are taken from here.
        tables: the tables whose rows were taken, as in `take_rows`.
        ids: item ids, as in `take_rows`.
    """

    def put(path: KeyPath, leaf: Array, part: Array) -> Array:
        if not tables.has(path):
            return part
        return leaf.at[ids].set(part, mode="drop", unique_indices=True, indices_are_sorted=True)

    return jax.tree_util.tree_map_with_path(put, tree, rows)
