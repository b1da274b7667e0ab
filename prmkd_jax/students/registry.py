"""The light models that are served: the protocol they share, and who they are."""

from typing import Protocol

from flax import nnx
from jaxtyping import Array, Float

from prmkd_jax.data.packing import PackedRows
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.deepfm import DeepFM
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.fm import FM
from prmkd_jax.students.gru4rec import GRU4Rec
from prmkd_jax.students.lightgcn import LightGCN
from prmkd_jax.students.sasrec import SASRec

STUDENTS = {
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
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


def create_student(
    config: StudentConfig, facts: Facts, seed: int
) -> tuple[nnx.GraphDef, nnx.State]:
    """A freshly initialised student, split into its structure and its parameters."""
    return nnx.split(STUDENTS[config.student](config, facts, rngs=nnx.Rngs(params=seed)))
