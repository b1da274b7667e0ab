"""Several devices, in a process of its own: their number is fixed when JAX starts."""

import os
import subprocess
import sys

LOSSES = """
import sys
import jax, numpy as np
from pathlib import Path
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.data.task import make_task
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import make_facts
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.loop import fit
from prmkd_jax.train.run import Run

task = make_task(synthetic_dataset(DataConfig(synthetic_users=60, synthetic_items=40)))
fitted = fit(Run(
    task=task,
    facts=make_facts(task, 16),
    student=StudentConfig(hidden_size=8, inner_size=8),
    train=TrainConfig(batch_size=64, max_epochs=2),
    seed=0,
    folder=Path(sys.argv[1]),
))
print(len(jax.devices()), *(record["loss"] for record in fitted.history))
"""


# The steps themselves run under a guard that refuses every transfer that isn't said; what is said
# is counted: the batches, and at no step the tables.
TABLES = """
import dataclasses, sys
import jax, numpy as np
from pathlib import Path
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.train import loop
from tests.worlds import RandomTeachers, make_run, random_world

world = random_world()
teachers = RandomTeachers(world)
teachers.tables = jax.device_put(teachers.tables, jax.devices()[0])
run = make_run(
    world, Path(sys.argv[1]), distill=DistillConfig(), teachers=teachers, threshold=1.0
)
train = dataclasses.replace(run.train, batch_size=64, max_epochs=2)
run = dataclasses.replace(run, train=train)
sizes, addresses = [], set()
put, run_epoch = jax.device_put, loop._run_epoch

def watched_put(tree, *where):
    sizes.extend(leaf.shape for leaf in jax.tree.leaves(tree))
    return put(tree, *where)

def watched_epoch(state, step, inputs, constants, *more):
    def watched_step(state, batch, distill, constants):
        for leaf in jax.tree.leaves(constants.tables):
            shards = leaf.addressable_shards
            addresses.add(tuple(shard.data.unsafe_buffer_pointer() for shard in shards))
        with jax.transfer_guard("disallow"):
            return step(state, batch, distill, constants)
    return run_epoch(state, watched_step, inputs, constants, *more)

jax.device_put, loop._run_epoch = watched_put, watched_epoch
loop.fit(run)
tables = [leaf.shape for leaf in jax.tree.leaves(teachers.tables) if leaf.ndim == 2]
print(len(jax.devices()), max(sizes.count(shape) for shape in tables), len(tables))
print(len(addresses), *{len(each) for each in addresses})
"""


def output_of(program: str, devices: int, folder) -> list[str]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def losses(devices: int, folder) -> tuple[int, list[float]]:
    count, *values = output_of(LOSSES, devices, folder)
    return int(count), [float(value) for value in values]


def test_two_devices_give_the_loss_of_one(tmp_path):
    """A mean over a device's share, or dropout masks that depend on the number of devices."""
    one, two = losses(1, tmp_path / "one"), losses(2, tmp_path / "two")
    assert (one[0], two[0]) == (1, 2)
    assert len(one[1]) == 2
    for a, b in zip(one[1], two[1], strict=True):
        assert abs(a - b) < 1e-4 * abs(a)


def test_the_teachers_tables_are_sent_to_the_other_device_once(tmp_path):
    """Tables of gigabytes that cross to every device at each step."""
    devices, sent, tables, addresses, copies = map(int, output_of(TABLES, 2, tmp_path))
    assert devices == copies == 2
    assert sent == 1
    # One address a table and device, over all the steps of all the epochs.
    assert addresses == tables + 1 == 8
