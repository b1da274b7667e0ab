"""The light models that are served: the protocol they share, and who they are."""

from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.plugins import own_class
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.students.bert4rec import BERT4Rec
from prmkd_jax.students.config import OWN_GROUP, StudentConfig
from prmkd_jax.students.deepfm import DeepFM
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.fm import FM
from prmkd_jax.students.gru4rec import GRU4Rec
from prmkd_jax.students.lightgcn import LightGCN
from prmkd_jax.students.recguru import RecGURU
from prmkd_jax.students.sasrec import SASRec

STUDENTS = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "recguru": RecGURU,
    "fm": FM,
    "deepfm": DeepFM,
    "lightgcn": LightGCN,
}


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
            rows: the packed rows that `queries` answered.
            rngs: source of everything random.
        """
        ...


def create_student(
    config: StudentConfig, facts: Facts, seed: int
) -> tuple[nnx.GraphDef, nnx.State]:
    """A freshly initialised student, split into its structure and its parameters.

    Raises:
        UserError: a user's own class can't be imported, or gives arrays of other shapes than
            the protocol's.
    """
    rngs = nnx.Rngs(params=seed)
    if config.student in STUDENTS:
        return nnx.split(STUDENTS[config.student](config, facts, rngs=rngs))
    student = own_class(OWN_GROUP, config.student, "student")(config, facts, rngs=rngs)
    _require_protocol(student, config.student, facts)
    return nnx.split(student)


def served_parameters(student: str, params: dict[str, Any]) -> int:
    """How many numbers serving needs: all parameters but those that only training reads.

    Args:
        student: its name; a class says what only training reads by `training_only`, names of
            its parts.
        params: the student's, as nested dictionaries.
    """
    unread = getattr(STUDENTS.get(student), "training_only", ())
    return sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if not any(dotted(path).startswith(f"{part}.") for part in unread)
    )


def dotted(path: tuple[Any, ...]) -> str:
    """A parameter's name, such as `blocks.0.qkv.kernel`, from its path in the tree."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _require_protocol(student: Student, name: str, facts: Facts) -> None:
    """Checks a user's own student's shapes: a table with a padding row ranks other items."""
    slots = np.zeros((2, 3), np.int32)

    def ask(rows: PackedRows) -> tuple[Array, Array, Array]:
        queries, items = student.queries(rows), student.items()
        return queries, items, student.score(queries, items)

    rows = PackedRows(*[slots] * len(PackedRows._fields))
    found = [[*array.shape] for array in jax.eval_shape(ask, rows)]
    width = found[0][-1]
    expected = [[6, width], [facts.num_items, width], [6, facts.num_items]]
    if found != expected:
        raise UserError(
            f"--student: {name}: found queries, items and scores of shape {found} for 6 slots and "
            f"{facts.num_items} items, expected {expected}"
        )
