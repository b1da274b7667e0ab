"""Where arrays lie: one mesh with the axes `data` and `model`, 1 × 1 on a single device."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from prmkd_jax.data.batches import Batch
from prmkd_jax.train.step import DistillInput


def make_mesh(rows: int) -> Mesh:
    """A mesh whose `data` axis takes as many devices as divide a batch's rows evenly.

    Parameters are replicated; the `model` axis has one device until tables outgrow one.

    Args:
        rows: packed rows of a batch, or a divisor of theirs that divides its instances too.
    """
    devices = jax.local_devices()
    count = math.gcd(len(devices), rows)
    return jax.make_mesh(
        (count, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices[:count]
    )


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def place(
    mesh: Mesh, batch: Batch, distill: DistillInput | None
) -> tuple[Batch, DistillInput | None]:
    """Divides a step's rows among the devices; the columns and the teachers are everywhere.

    The negatives are those of the whole batch, not of a device's share, so the loss is the
    same on any number of devices.
    """
    by_row = NamedSharding(mesh, PartitionSpec("data"))
    batch = jax.device_put(batch, by_row)
    if distill is None:
        return batch, None
    columns = distill.columns._replace(
        candidates=replicate(mesh, distill.columns.candidates),
        target_columns=jax.device_put(distill.columns.target_columns, by_row),
        valid=jax.device_put(distill.columns.valid, by_row),
    )
    return batch, replicate(mesh, distill._replace(columns=None))._replace(columns=columns)
