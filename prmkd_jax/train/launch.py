"""What the environment says of several processes: how many, which one this is, and its devices."""

import os
from typing import NamedTuple

from prmkd_jax.common.errors import UserError

COORDINATOR, PROCESSES, PROCESS = "PRMKD_COORDINATOR", "PRMKD_PROCESSES", "PRMKD_PROCESS"
"""HOST:PORT of the first process, how many there are, and which one this is, counted from 0."""
AUTO = "auto"
"""As `$PRMKD_PROCESSES`: JAX finds all three out, on TPUs, under Slurm, Open MPI, Kubernetes."""
DEVICES = "JAX_LOCAL_DEVICE_IDS"
"""JAX's own: the numbers of this process's GPUs among those that it sees."""


class Given(NamedTuple):
    """What `jax.distributed.initialize` is told; all None where JAX finds it out."""

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def asked() -> Given | None:
    """What the environment asks for; None for one process.

    Raises:
        UserError: a variable is missing, or says nothing that can be.
    """
    text, address = os.environ.get(PROCESSES, ""), os.environ.get(COORDINATOR, "")
    if not text:
        for name in (COORDINATOR, PROCESS):
            if os.environ.get(name):
                raise UserError(f"${PROCESSES}: found none beside ${name}, expected their number")
        return None
    if text == AUTO:
        return Given()
    count = _number(PROCESSES, 1, f", or {AUTO}")
    if count == 1:
        return None
    own = _number(PROCESS, 0)
    if own >= count:
        raise UserError(f"${PROCESS}: found {own}, expected less than ${PROCESSES}={count}")
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536):
        raise UserError(f"${COORDINATOR}: found {address[:60]!r}, expected HOST:PORT")
    return Given(address, count, own)


def own_devices() -> list[int] | None:
    """The GPUs of this process, as `jax.distributed.initialize` takes them.

    Under Slurm and Open MPI JAX gives each process the one GPU of its number on its machine, even
    to a process that is alone there, and one that isn't there to a process that sees only its own.
    CPUs and TPUs are not concerned. Source: `jax._src.clusters.cluster`.

    Returns:
        None leaves it to JAX; an empty list is all that the process sees.
    """
    given = os.environ.get
    if given(DEVICES):
        return None
    count = given("SLURM_NTASKS")
    alone = count is not None and count == given("SLURM_STEP_NUM_NODES")
    if beside := given("OMPI_COMM_WORLD_LOCAL_SIZE"):
        # JAX, too, takes Open MPI's word before Slurm's.
        alone = beside == "1"
    sees_one = "," not in given("CUDA_VISIBLE_DEVICES", ",")
    return [] if alone or sees_one else None


def _number(name: str, least: int, other: str = "") -> int:
    text = os.environ.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 7) or int(text) < least:
        raise UserError(
            f"${name}: found {text[:60]!r}, expected a whole number from {least} on{other}"
        )
    return int(text)
