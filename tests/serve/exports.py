"""Students of random weights as serving reads them."""

from pathlib import Path

from flax import nnx

from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.exported import export_student
from prmkd_jax.students.registry import window
from prmkd_jax.students.student import create_student
from tests.students.reference import random_params
from tests.worlds import MAX_SEQ_LEN, facts, student_config


def export(
    folder: Path, world: Dataset, seed: int, student: str = "sasrec", **options: str
) -> Path:
    """An export of random weights."""
    config = student_config(student=student, **options)
    known = facts(world, window(config, MAX_SEQ_LEN))
    params = random_params(nnx.to_pure_dict(create_student(config, known, 0)[1]), seed=seed)
    export_student(folder, params, config, known, world)
    return folder
