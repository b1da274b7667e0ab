"""Several devices, in a process of its own: their number is fixed when JAX starts."""

import dataclasses
from pathlib import Path
from typing import cast
from unittest import mock

import jax
import pytest

from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.data.task import make_task
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import make_facts
from prmkd_jax.train import loop
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.loop import fit
from prmkd_jax.train.run import Run
from prmkd_jax.train.step import TrainStep
from tests.devices import run_on_devices
from tests.worlds import RandomTeachers, make_run, random_world

# Both in one process: importing JAX takes longer than either.
PROGRAM = """
import json, sys
from pathlib import Path
import jax
from tests.train.test_sharding import losses, tables_sent
folder = Path(sys.argv[1])
print(json.dumps([len(jax.devices()), losses(folder / "losses"), tables_sent(folder / "tables")]))
"""


def losses(folder: Path) -> list[float]:
    """Of two epochs on all devices that there are."""
    task = make_task(synthetic_dataset(DataConfig(synthetic_users=60, synthetic_items=40)))
    run = Run(
        task=task,
        facts=make_facts(task, 16),
        student=StudentConfig(hidden_size=8, inner_size=8),
        train=TrainConfig(batch_size=64, max_epochs=2),
        seed=0,
        folder=folder,
    )
    return [record["loss"] for record in fit(run).history]


def tables_sent(folder: Path) -> dict[str, object]:
    """How often the teachers' tables are sent, and where they lie, as each step meets them.

    The steps themselves run under a guard that refuses every transfer that isn't said; what is
    said is counted: the batches, and at no step the tables.
    """
    world = random_world()
    teachers = RandomTeachers(world)
    teachers.tables = jax.device_put(teachers.tables, jax.devices()[0])
    run = make_run(world, folder, distill=DistillConfig(), teachers=teachers, threshold=1.0)
    train = dataclasses.replace(run.train, batch_size=64, max_epochs=2)
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

        return run_epoch(state, cast(TrainStep, watched_step), inputs, constants, *more)

    with (
        mock.patch.object(jax, "device_put", watched_put),
        mock.patch.object(loop, "_run_epoch", watched_epoch),
    ):
        fit(dataclasses.replace(run, train=train))
    tables = [leaf.shape for leaf in jax.tree.leaves(teachers.tables) if leaf.ndim == 2]
    return {
        "sent": max(sizes.count(shape) for shape in tables),
        "tables": len(tables),
        "addresses": len(addresses),
        "copies": sorted({len(each) for each in addresses}),
    }


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    """The number of devices, the losses and what is known of the tables, on two."""
    return run_on_devices(2, "-c", PROGRAM, str(tmp_path_factory.mktemp("two")))


def test_two_devices_give_the_loss_of_one(on_two, tmp_path):
    """Neither the mean nor the dropout masks depend on the number of devices."""
    devices, two, _ = on_two
    assert (len(jax.devices()), devices) == (1, 2)
    one = losses(tmp_path)
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-4)


def test_the_teachers_tables_are_sent_to_the_other_device_once(on_two):
    """Every step reads them at the same addresses."""
    devices, _, found = on_two
    assert devices == 2
    assert found["copies"] == [2]
    assert found["sent"] == 1
    # One address a table and device, over all the steps of all the epochs.
    assert found["addresses"] == found["tables"] + 1 == 8
