"""Where arrays are: one mesh with the axes `data` and `model`, 1 × 1 on a single device.

A batch's rows and instances are divided over `data`, the rows of tables of items and users over
`model`, with Adam's moments of them and the teachers' vectors; everything else is on each device.
The negatives are those of the complete batch, not of a device's share, so the loss is the same on
any number of devices.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import Batch
from prmkd_jax.data.columns import Columns
from prmkd_jax.ops import shards
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.shards import DATA, MODEL, ROWS, padded_rows
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.student import Params
from prmkd_jax.students.tables import Divided, tables_of
from prmkd_jax.train.devices import VARIABLE, asked_mesh
from prmkd_jax.train.inputs import Constants, DistillBatch

_DIVIDED = PartitionSpec(DATA)
_EVERYWHERE = PartitionSpec()

TreeT = TypeVar("TreeT")


def _specs(record: Callable[..., TreeT], **fields: object) -> TreeT:
    """A record that holds specs in the place of arrays."""
    return record(**fields)


STATE = _EVERYWHERE
"""Parameters, moments, step, key; where tables are divided, `Divided.specs` of them."""
CONSTANTS = _EVERYWHERE
STEP_METRICS = _EVERYWHERE
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
    """A mesh of the shape that `$PRMKD_MESH` asks for.

    Without it, `data` takes as many devices as divide a batch's rows evenly, and `model` one.

    Args:
        rows: packed rows of a batch, or a divisor of theirs that divides its instances too.

    Raises:
        UserError: there are too few devices, a batch can't be divided so, or one of several
            processes would have nothing to do.
    """
    devices = jax.devices()
    data, model = asked_mesh() or (math.gcd(len(devices), rows), 1)
    if data * model > len(devices):
        raise UserError(
            f"${VARIABLE}: found {data}x{model}, expected at most the {len(devices)} devices here"
        )
    if jax.process_count() > 1 and data * model < len(devices):
        raise UserError(
            f"${VARIABLE}: found {data}x{model}, expected all {len(devices)} devices of the "
            f"{jax.process_count()} processes (a batch has {rows} rows, see --batch_size)"
        )
    if rows % data:
        raise UserError(
            f"${VARIABLE}: found {data}x{model}, expected a first number that divides a batch's "
            f"{rows} rows (see --batch_size)"
        )
    return arrange(data, model)


def arrange(data: int, model: int) -> Mesh:
    """A mesh of the first `data * model` devices, of which there are as many."""
    return jax.make_mesh(
        (data, model),
        (DATA, MODEL),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: data * model],
    )


def divide(mesh: Mesh, params: Params, facts: Facts) -> Divided:
    """The tables whose rows the mesh divides; none where `model` has one device."""
    return Divided(mesh, tables_of(params, facts) if mesh.shape[MODEL] > 1 else ())


def place_state(divided: Divided, state: TreeT) -> TreeT:
    """Puts a state, or parameters, on the devices of a mesh."""
    if divided.tables or divided.mesh is None:
        return divided.place(state)
    return place(divided.mesh, state, STATE)


def place_constants(mesh: Mesh, constants: Constants) -> Constants:
    """Puts a run's constants on the devices of a mesh, the teachers' vectors by rows."""
    tables, count = constants.tables, mesh.shape[MODEL]
    if tables is None or count == 1:
        return place(mesh, constants, CONSTANTS)

    def by_rows(array: Array) -> Array:
        missing = padded_rows(len(array), count) - len(array)
        padded = jnp.pad(array, ((0, missing), (0, 0))) if missing else array
        return place(mesh, padded, ROWS)

    scales = place(mesh, tables.scales)
    divided = jax.tree.map(by_rows, tables._replace(scales=None))._replace(scales=scales)
    return place(mesh, constants._replace(tables=None), CONSTANTS)._replace(tables=divided)


def shardings(mesh: Mesh, specs: TreeT) -> TreeT:
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
    return shards.place(tree, shardings(mesh, specs))


def place_inputs(
    mesh: Mesh, batch: Batch, distill: DistillBatch | None
) -> tuple[Batch, DistillBatch | None]:
    """Puts one step's inputs on the devices of a mesh; one device is given them with the call.

    A compiled function takes NumPy arrays to its device in a fraction of the time that placing
    them takes, one to two milliseconds a step.
    """
    if mesh.size == 1:
        return batch, distill
    if distill is None:
        return place(mesh, batch, BATCH), None
    return place(mesh, batch, BATCH), place(mesh, distill, DISTILL_BATCH)
