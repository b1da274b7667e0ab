import dataclasses
import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from prmkd_jax.students.config import BUILT_IN, StudentConfig
from prmkd_jax.students.registry import about, window
from prmkd_jax.students.student import HasAuxiliary, create_student
from prmkd_jax.train.inputs import training_batches
from prmkd_jax.train.objective import Instances, loss_of, own_losses
from tests.worlds import MAX_SEQ_LEN, facts, make_run, random_world, student_config, task_of

WORLD, OTHER = random_world(users=12, items=20), random_world(users=9, items=15, seed=8)
# Read by the losses, for every student.
LOSS = ("loss", "num_negatives", "gbce_t")
OTHER_VALUES = {
    "num_layers": 2,
    "num_heads": 3,
    "inner_size": 11,
    "positions": "newest",
    "gru_size": 9,
    "mask_probability": 0.4,
    "second_domain": "Other",
    "auxiliary_weight": 0.7,
    "dropout": 0.4,
    "mlp_sizes": (8, 6),
    "embedding_l2": 0.1,
}


def trained(config: StudentConfig) -> str:
    """The program of a student's start and of its losses in training, by BPR, not compiled."""
    second, length = OTHER if config.second_domain else None, window(config, MAX_SEQ_LEN)
    known_facts = facts(WORLD, length, second)
    run = make_run(WORLD, Path("unused"), student=config, max_seq_len=length)
    batch = next(iter(training_batches(run).epoch(0)))
    prepared = loss_of(config).prepare(task_of(WORLD), known_facts)

    def losses(key):
        student, rngs = nnx.merge(*create_student(config, known_facts, 0)), nnx.Rngs(key)
        queries, items = batch.at_targets(student.queries(batch.rows, rngs)), student.items()
        further = student.auxiliary(batch.rows, rngs) if isinstance(student, HasAuxiliary) else 0
        users = batch.at_targets(batch.rows.users.reshape(-1))
        instances = Instances(queries, items, batch.targets, users)
        return own_losses(config, student, instances, prepared, key), further

    # Functions are printed with their addresses.
    return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(losses)(jax.random.key(0))))


@pytest.mark.parametrize("name", BUILT_IN)
def test_students_read_the_options_that_they_are_said_to_read(name):
    """A declared option changes the training, and any other changes nothing."""
    options = {field.name for field in dataclasses.fields(StudentConfig)}
    # `item_init` is read by the run (tests/students/test_starts.py).
    assert OTHER_VALUES.keys() == options - {"student", "hidden_size", "item_init", *LOSS}
    config = student_config(student=name, mlp_sizes=(7, 5), loss="bpr")
    usual = trained(config)
    read = about(name).reads
    for option in read:
        changed = dataclasses.replace(config, **{option: OTHER_VALUES[option]})
        assert trained(changed) != usual, option
    others = {option: value for option, value in OTHER_VALUES.items() if option not in read}
    assert trained(dataclasses.replace(config, **others)) == usual
