"""The parameters with a row an item or a user, and how devices share their rows.

No table has a padding row. Where several devices share one, its rows are filled up with zeros to a
multiple of their number, and taken off again wherever the table is read.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import KeyPath

from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.shards import MODEL, ROWS, here, padded_rows, place, whole
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.student import Params

TreeT = TypeVar("TreeT")


class Table(NamedTuple):
    """A parameter whose rows are divided.

    Attributes:
        name: the table's dotted name.
        rows: how many it has.
    """

    name: str
    rows: int


Tables = tuple[Table, ...]


def tables_of(params: Params, facts: Facts) -> Tables:
    """The parameters with as many rows as there are items, or users."""
    sizes = (facts.num_items, facts.num_users)
    named = ((_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params))
    return tuple(Table(name, len(x)) for name, x in named if x.ndim and len(x) in sizes)


def is_table(path: KeyPath, tables: Tables) -> int:
    """The rows of the table that a leaf is, or that a leaf is a moment of; 0 if there is none.

    Args:
        path: the path of the leaf in parameters, or in a state that holds such dictionaries.
        tables: those that are divided.
    """
    return dict(tables).get(_name(path), 0)


def pad_tables(tree: TreeT, tables: Tables, count: int) -> TreeT:
    """Fills up the rows to a multiple of `count`; a table that has it stays as it is.

    >>> pad_tables({"table": jnp.ones((3, 1))}, (Table("table", 3),), 2)["table"].ravel().tolist()
    [1.0, 1.0, 1.0, 0.0]
    """

    def pad(path: KeyPath, leaf: Array) -> Array:
        rows = is_table(path, tables)
        missing = padded_rows(rows, count) - len(leaf) if rows else 0
        if not missing:
            return leaf
        return jnp.pad(leaf, ((0, missing), *((0, 0),) * (leaf.ndim - 1)))

    return jax.tree_util.tree_map_with_path(pad, tree)


def trim_tables(tree: TreeT, tables: Tables) -> TreeT:
    """The inverse of `pad_tables`; may stand in a jitted function."""
    if not tables:
        return tree

    def trim(path: KeyPath, leaf: Array) -> Array:
        rows = is_table(path, tables)
        return leaf[:rows] if rows and len(leaf) > rows else leaf

    return jax.tree_util.tree_map_with_path(trim, tree)


@dataclasses.dataclass(frozen=True)
class Divided:
    """A mesh, and the tables whose rows its axis `model` divides.

    Attributes:
        mesh: the devices; None for the default one.
        tables: empty where every device has all rows.
    """

    mesh: Mesh | None = None
    tables: Tables = ()

    def specs(self, tree: TreeT) -> TreeT:
        """Specs of parameters, or of a state with them: the tables' rows and moments divided."""

        def spec(path: KeyPath, leaf: Array) -> PartitionSpec:
            return ROWS if is_table(path, self.tables) else PartitionSpec()

        return jax.tree_util.tree_map_with_path(spec, tree)

    def shardings(self, tree: TreeT) -> TreeT:
        """The same as shardings."""
        assert self.mesh is not None
        mesh = self.mesh
        return jax.tree.map(
            lambda spec: NamedSharding(mesh, spec),
            self.specs(tree),
            is_leaf=lambda node: isinstance(node, PartitionSpec),
        )

    def place(self, tree: TreeT) -> TreeT:
        """Puts parameters, or a state with them, on the devices; what is there stays.

        Without divided tables nothing is moved: of several processes each goes on with its own.
        """
        if not self.tables or self.mesh is None:
            return here(tree)
        padded = pad_tables(tree, self.tables, self.mesh.shape[MODEL])
        return place(padded, self.shardings(padded))

    def whole(self, tree: TreeT) -> TreeT:
        """The inverse of `place`: complete tables, NumPy's, that any mesh can take."""
        several = self.mesh is not None and self.mesh.is_multi_process
        return trim_tables(whole(tree), self.tables) if self.tables or several else tree

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Functions that are traced meanwhile know over how many devices rows are divided."""
        if not self.tables or self.mesh is None:
            yield
        else:
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                yield


ONE_DEVICE = Divided()
"""Every table complete, on the default device."""


def _name(path: KeyPath) -> str:
    """The dictionaries' keys at a path's end: the parameter's dotted name, in a state too."""
    keys: list[str] = []
    for entry in reversed(path):
        if not isinstance(entry, jax.tree_util.DictKey):
            break
        keys.append(str(entry.key))
    return ".".join(reversed(keys))
