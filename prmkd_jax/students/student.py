"""The light models that are served: the protocol they share, and how one is made."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.tree_util import KeyPath
from jaxtyping import Float, Int

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.plugins import own_code
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.about import About
from prmkd_jax.students.config import STUDENTS, StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import about, class_label, student_class

Params = dict[str, Any]


@runtime_checkable
class Student(Protocol):
    """All that training, distillation, ranking and export know of a model."""

    def queries(self, rows: PackedRows, rngs: nnx.Rngs | None = None) -> Float[Array, "B D"]:
        """One user vector a slot; dropout only where `rngs` is given."""
        ...

    def items(self) -> Float[Array, "V D"]:
        """One vector an item."""
        ...

    def score(
        self, queries: Float[Array, "B D"], items: Float[Array, "C D"]
    ) -> Float[Array, "B C"]:
        """The score of every query with every item, float32."""
        ...


@runtime_checkable
class HasAuxiliary(Protocol):
    """A student that also learns from a loss of its own; the method is optional.

    The step adds it to the loss of the plain and of the distilled student alike.
    """

    def auxiliary(self, rows: PackedRows, rngs: nnx.Rngs) -> Float[Array, ""]:
        """The further loss on a batch's rows, weighted; padding slots must not count.

        Args:
            rows: the packed rows that `queries` read.
            rngs: source of everything random.
        """
        ...


@runtime_checkable
class MakesSomeItems(Protocol):
    """A student that makes vectors of some items without those of all; the method is optional.

    A step whose loss draws items then makes those that it reads.
    """

    def items_at(self, ids: Int[Array, " C"]) -> Float[Array, "C D"]:
        """The rows of `items` with these ids."""
        ...


@runtime_checkable
class Regularized(Protocol):
    """A student with an L2 term of its own under BPR; the method is optional."""

    def embedding_norms(
        self, users: Int[Array, " B"], positives: Int[Array, " B"], negatives: Int[Array, " B"]
    ) -> Float[Array, " B"]:
        """Half the squared norm of an instance's embeddings.

        Args:
            users: user ids.
            positives: rows of the targets in the student's tables: their item ids, but under
                `--lazy_adam`, where the tables have the rows alone that a step reads.
            negatives: rows of the drawn items, likewise.
        """
        ...


@runtime_checkable
class FoldsIn(Protocol):
    """A student with one vector a user that can make one for a user it doesn't know."""

    def fold_in_items(self) -> Float[Array, "V D"]:
        """Vectors f_i; a new user's vector is Σ f_i / √n over the n distinct items read."""
        ...


def create_student(
    config: StudentConfig, facts: Facts, seed: int
) -> tuple[nnx.GraphDef, nnx.State]:
    """A freshly initialised student, split into its structure and its parameters.

    Raises:
        UserError: a user's own class can't be imported, raises something, gives arrays of
            other shapes than the protocol's, or names tables that it doesn't have.
    """
    made = student_class(config.student)
    if config.student in STUDENTS:
        return nnx.split(made(config, facts, rngs=nnx.Rngs(params=seed)))
    with own_code(f"{class_label(config.student, made)}.__init__", made.__module__):
        student = made(config, facts, rngs=nnx.Rngs(params=seed))
    if not issubclass(type(student), nnx.Module):
        raise UserError(f"{class_label(config.student, made)} is no flax.nnx.Module, expected one")
    _require_protocol(student, config.student, facts)
    graphdef, state = nnx.split(student)
    _require_tables(
        class_label(config.student, made),
        param_shapes(nnx.to_pure_dict(state)),
        about(config.student),
        facts,
    )
    return graphdef, state


def abstract_params(config: StudentConfig, facts: Facts) -> Params:
    """Shapes and dtypes of a student's parameters; nothing is computed."""
    return jax.tree.map(lambda leaf: leaf, _abstract(config, facts)[1])


def structure(config: StudentConfig, facts: Facts) -> nnx.GraphDef:
    """A student's structure alone; nothing is computed."""
    return _abstract(config, facts)[0]


class HashedStructure:
    """A student's structure as a program's static argument, hashed once.

    Each call of a program hashes its static arguments, and a graphdef takes about half a
    millisecond.

    Args:
        graphdef: the structure.
    """

    def __init__(self, graphdef: nnx.GraphDef):
        self.graphdef = graphdef
        self._hash = hash(graphdef)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, HashedStructure)
            and self._hash == other._hash
            and self.graphdef == other.graphdef
        )

    def student(self, params: Params) -> Student:
        """The student with these parameters."""
        return nnx.merge(self.graphdef, nnx.State(params))


# Tracing one takes half a second; planning a run, or loading a student, asks several times.
@functools.lru_cache(maxsize=4)
def _abstract(config: StudentConfig, facts: Facts) -> tuple[nnx.GraphDef, Params]:
    def made() -> tuple[nnx.GraphDef, Params]:
        graphdef, state = create_student(config, facts, 0)
        return graphdef, nnx.to_pure_dict(state)

    return jax.eval_shape(made)


def flatten_params(params: Params) -> dict[str, np.ndarray]:
    """The parameters by dotted name, such as `blocks.0.qkv.kernel`."""
    return {name: np.asarray(leaf) for name, leaf in _named_leaves(params)}


def unflatten_params(weights: dict[str, np.ndarray], like: Params) -> Params:
    """The inverse of `flatten_params`.

    Args:
        weights: arrays by dotted name.
        like: parameters of the structure and the dtypes wanted.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.array(weights[_dotted(path)], leaf.dtype), like
    )


def param_shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """The parameters' shapes by dotted name."""
    return {name: leaf.shape for name, leaf in _named_leaves(params)}


def larger_axes(config: StudentConfig, facts: Facts, larger: Facts) -> dict[str, tuple[int, ...]]:
    """The axes of parameters that are longer under larger facts; parameters without any are absent.

    Args:
        config: the student's settings.
        facts: sizes of the data.
        larger: the same with more items, users or words of a field.
    """
    before, after = (param_shapes(abstract_params(config, each)) for each in (facts, larger))
    axes = {
        name: tuple(n for n, (a, b) in enumerate(zip(shape, after[name], strict=True)) if a != b)
        for name, shape in before.items()
    }
    return {name: found for name, found in axes.items() if found}


def served_parameters(student: str, params: Params) -> int:
    """How many numbers serving needs: all parameters but those that only training reads."""
    return sum(leaf.size for name, leaf in _named_leaves(params) if is_served(student, name))


def is_served(student: str, parameter: str) -> bool:
    """Whether serving reads a parameter of a student, by its dotted name."""
    unread = about(student).training_only
    return not parameter.startswith(tuple(f"{part}." for part in unread))


def _named_leaves(params: Params) -> Iterator[tuple[str, Array]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        yield _dotted(path), leaf


def _dotted(path: KeyPath) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _require_protocol(student: Student, name: str, facts: Facts) -> None:
    """Checks what a user's own student returns: a table with a padding row ranks other items.

    Raises:
        UserError: a method is missing, or returns no floats of the shape that it should.
    """
    told = class_label(name, type(student))
    for method in ("queries", "items", "score"):
        if not callable(getattr(student, method, None)):
            raise UserError(f"{told} has no method {method}, expected queries, items and score")
    for place, leaf in _named_leaves(nnx.to_pure_dict(nnx.state(student))):
        _require_learnable(f"{told}: attribute {place}", leaf)
    slots = np.zeros((2, 3), np.int32)
    rows = PackedRows(*[slots] * len(PackedRows._fields))

    def shape_of(method: str, wanted: str, ask: Callable[[], Array]) -> jax.ShapeDtypeStruct:
        with own_code(f"{told}.{method}", type(student).__module__):
            found = jax.eval_shape(ask)
        dtype = getattr(found, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            kind = type(found).__name__ if dtype is None else str(dtype)
            raise UserError(f"{told}.{method} returned {kind}, expected floats {wanted}")
        return found

    queries = shape_of("queries", "[6, d]", lambda: student.queries(rows))
    shape_of("queries", "[6, d]", lambda: student.queries(rows, nnx.Rngs(0)))
    if isinstance(student, HasAuxiliary):
        loss = shape_of("auxiliary", "[]", lambda: student.auxiliary(rows, nnx.Rngs(0)))
        if loss.shape:
            raise UserError(f"{told}.auxiliary returned shape {[*loss.shape]}, expected one number")
    items = shape_of("items", f"[{facts.num_items}, d]", student.items)
    width = queries.shape[-1] if queries.shape else "d"
    expected = [[6, width], [facts.num_items, width], [6, facts.num_items]]
    found = [[*queries.shape], [*items.shape]]
    if [len(shape) for shape in found] == [2, 2] and found[0][1] == found[1][1]:
        scores = shape_of("score", str(expected[2]), _scores(student, queries, items))
        found.append([*scores.shape])
    if found != expected:
        raise UserError(
            f"--student: {name}: found queries, items and scores of shape {found} for 6 slots and "
            f"{facts.num_items} items, expected {expected}"
        )


def _require_learnable(told: str, leaf: Array) -> None:
    """Checks what is learned, which every array among a student's attributes is.

    Raises:
        UserError: it is no array of finite floats: others have no gradient, or could be written but
            not read again.
    """
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        kind = type(leaf).__name__ if dtype is None else str(dtype)
        raise UserError(f"{told}: found {kind}, expected floats: every array is learned")
    if not isinstance(leaf, Tracer) and not bool(jnp.isfinite(leaf).all()):
        raise UserError(
            f"{told}: found numbers that are not finite, expected finite ones: every array is "
            "learned"
        )


def _require_tables(
    told: str, shapes: Mapping[str, tuple[int, ...]], said: About, facts: Facts
) -> None:
    """Checks the tables that a user's own student names: of others `--lazy_adam` takes no rows.

    Raises:
        UserError: one isn't there, or has no row for each item; or none is named though an item
            is its rows alone.
    """
    fitting = [name for name, shape in shapes.items() if len(shape) == 2]
    fitting = [name for name in fitting if shapes[name][0] == facts.num_items]
    for table in said.item_tables:
        if table not in fitting:
            raise UserError(
                f"{told}.about: item_tables: found {table!r}, expected parameters with a row for "
                f"each of {facts.num_items} items, out of: {', '.join(fitting) or 'none'}"
            )
    if said.rows_alone and not said.item_tables:
        raise UserError(
            f"{told}.about: rows_alone: found True without item_tables, expected their names"
        )


def _scores(
    student: Student, queries: jax.ShapeDtypeStruct, items: jax.ShapeDtypeStruct
) -> Callable[[], Array]:
    def ask() -> Array:
        return student.score(
            jnp.zeros(queries.shape, queries.dtype), jnp.zeros(items.shape, items.dtype)
        )

    return ask
