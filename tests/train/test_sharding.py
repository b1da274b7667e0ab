"""Several devices, in a process of its own: their number is fixed when JAX starts."""

import os
import subprocess
import sys

PROGRAM = """
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


def losses(devices: int, folder) -> tuple[int, list[float]]:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    count, *values = done.stdout.split()
    return int(count), [float(value) for value in values]


def test_two_devices_give_the_loss_of_one(tmp_path):
    """A mean over a device's share, or dropout masks that depend on the number of devices."""
    one, two = losses(1, tmp_path / "one"), losses(2, tmp_path / "two")
    assert (one[0], two[0]) == (1, 2)
    assert len(one[1]) == 2
    for a, b in zip(one[1], two[1], strict=True):
        assert abs(a - b) < 1e-4 * abs(a)
