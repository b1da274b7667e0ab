"""Where arrays are: one mesh with the axes `data` and `model`, 1 × 1 on a single device.

A batch's rows and instances are divided among the devices; everything else is on each of them. The
negatives are those of the complete batch, not of a device's share, so the loss is the same on any
number of devices.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from prmkd_jax.data.batches import Batch
from prmkd_jax.data.columns import Columns
from prmkd_jax.train.inputs import DistillBatch

_DIVIDED = PartitionSpec("data")
_EVERYWHERE = PartitionSpec()

TreeT = TypeVar("TreeT")


def _specs(record: Callable[..., TreeT], **fields: object) -> TreeT:
    """A record that holds specs in the place of arrays."""
    return record(**fields)


STATE = _EVERYWHERE
"""Parameters, moments, step, key: the `model` axis has one device until tables outgrow one."""
CONSTANTS = _EVERYWHERE
METRICS = _EVERYWHERE
BATCH = _specs(
    Batch,
    rows=_DIVIDED,
    instance_ids=_DIVIDED,
    targets=_DIVIDED,
    is_instance=_DIVIDED,
    slots=_DIVIDED,
)
DISTILL_BATCH = _specs(
    DistillBatch,
    columns=_specs(
        Columns,
        candidates=_EVERYWHERE,
        target_column=_DIVIDED,
        valid=_DIVIDED,
        scored=_DIVIDED,
    ),
    teacher_instance_ids=_DIVIDED,
    scores=_DIVIDED,
    joint=_DIVIDED,
)


def make_mesh(rows: int) -> Mesh:
    """A mesh whose `data` axis takes as many devices as divide a batch's rows evenly.

    Args:
        rows: packed rows of a batch, or a divisor of theirs that divides its instances too.
    """
    devices = jax.local_devices()
    count = math.gcd(len(devices), rows)
    return jax.make_mesh(
        (count, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices[:count]
    )


def shardings(mesh: Mesh, specs: object) -> Any:
    """The specs of a table entry as shardings on a mesh."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda node: isinstance(node, PartitionSpec),
    )


def place(mesh: Mesh, tree: TreeT, specs: object = _EVERYWHERE) -> TreeT:
    """Puts arrays on the devices of a mesh.

    Args:
        mesh: the devices.
        tree: a pytree of arrays.
        specs: entry of the table above.
    """
    return jax.device_put(tree, shardings(mesh, specs))


def place_inputs(
    mesh: Mesh, batch: Batch, distill: DistillBatch | None
) -> tuple[Batch, DistillBatch | None]:
    """Puts one step's inputs on the devices of a mesh."""
    if distill is None:
        return place(mesh, batch, BATCH), None
    return place(mesh, batch, BATCH), place(mesh, distill, DISTILL_BATCH)
