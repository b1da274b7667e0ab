"""The one module that knows Ray: has parts made by Ray Data's `map_batches`."""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import part_file
from prmkd_jax.common.sealed import is_sealed

_LOG = logging.getLogger(__name__)

VARIABLE = "PRMKD_RAY"
"""`local` for a cluster of this machine alone, `auto` for the one that runs here, or HOST:PORT."""
Maker = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
"""Takes a batch of parts, `start` and `stop`; returns it with `fault`, see `cluster.PartMaker`."""
_ADDRESS = re.compile(r"local|auto|[^\s/:]+:[0-9]{1,5}")
# Seconds until a file that another machine has written is seen through a network file system.
_SEEN_AFTER = 60.0
# Passes without a part that are repeated, and seconds before each: Ray may take half a minute to
# see that a node is lost.
_PATIENCE, _PAUSE = 3, 10.0
# Settled by the command before it imported torch; a worker's process starts with them too.
_HANDED_ON = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
    *("TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_TELEMETRY"),
)


def asked_cluster() -> str | None:
    """The cluster that is asked for; None for this process alone.

    Raises:
        UserError: it is no address.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    if not _ADDRESS.fullmatch(text):
        raise UserError(
            f"${VARIABLE}: found {text[:60]!r}, expected local, auto or HOST:PORT of a Ray cluster"
        )
    return text


@functools.cache
def require_ray(address: str) -> None:
    """Looks, once a process, whether a cluster can be reached and has room.

    Raises:
        UserError: it isn't so, or Ray isn't installed.
    """
    with _connected(address) as ray:
        _slots(ray)


def made(
    address: str, missing: Sequence[tuple[int, int]], maker: Maker, folder: Path
) -> Iterator[tuple[int, int]]:
    """Has the parts made; yields each once its file is in the folder.

    Ray gives up a part whose node is lost, and is then asked for it again, until several passes
    in a row have given none. It could also wait for the lost worker, for ever if no node has room.

    Raises:
        UserError: a part can't be made, can't be seen here, or the cluster fails.
    """
    left, fruitless = set(missing), 0
    with _connected(address) as ray:
        while left:
            before = len(left)
            try:
                for start, stop, fault in _round(ray, sorted(left), maker):
                    if fault:
                        raise UserError(fault)
                    _require_seen(part_file(folder, start, stop))
                    left.discard((start, stop))
                    yield start, stop
            except ray.exceptions.RayError:
                # So ends a pass of which a worker was being started on the node that is lost, and
                # the next ones too until the cluster has noticed.
                if len(left) == before and fruitless == _PATIENCE:
                    raise
            fruitless = fruitless + 1 if len(left) == before else 0
            if fruitless > _PATIENCE:
                raise UserError(
                    f"${VARIABLE}: found that none of {before} parts was made on {address}; "
                    "expected nodes with this project and its teachers installed (Ray's own logs "
                    "say more: /tmp/ray/session_latest/logs)"
                )
            if left:
                _LOG.warning("$%s: %d parts are asked for again", VARIABLE, len(left))
                time.sleep(_PAUSE * (fruitless > 0))


class _RayMaker:
    """A worker of Ray's: the part maker that it was sent, with the sender's number of threads."""

    def __init__(self, maker: Maker, threads: int):
        # Sums in another number of parts may have other last bits.
        torch.set_num_threads(threads)
        self._maker = maker

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._maker(batch)


def _round(
    ray: Any, parts: Sequence[tuple[int, int]], maker: Maker
) -> Iterator[tuple[int, int, str]]:
    """One pass of Ray Data over the parts: those that were made, and what went wrong."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    slots, resources = _slots(ray)
    rows = [{"start": start, "stop": stop} for start, stop in parts]
    with warnings.catch_warnings():
        # Ray 2.60 warns of the last two arguments, which 2.64 is to drop; `made` says what for.
        warnings.simplefilter("ignore")
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _RayMaker,
            fn_constructor_args=(maker, int(resources["num_cpus"])),
            batch_size=1,
            # A node that joins meanwhile gets workers too. A worker has its next part at hand.
            compute=ray.data.ActorPoolStrategy(
                min_size=min(slots, len(rows)), max_size=len(rows), max_tasks_in_flight_per_actor=2
            ),
            runtime_env={"env_vars": {n: os.environ[n] for n in _HANDED_ON if n in os.environ}},
            **resources,
            max_restarts=0,
            max_task_retries=0,
        )
    for row in done.iter_rows():
        yield int(row["start"]), int(row["stop"]), str(row["fault"])


def _slots(ray: Any) -> tuple[int, dict[str, float]]:
    """How many workers the cluster has room for now, and what each of them takes.

    Raises:
        UserError: there is room for none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    if gpus:
        return gpus, {"num_cpus": 1, "num_gpus": 1}
    threads = torch.get_num_threads()
    slots = sum(int(node.get("CPU", 0)) // threads for node in nodes)
    if not slots:
        largest = max((int(node.get("CPU", 0)) for node in nodes), default=0)
        raise UserError(
            f"${VARIABLE}: found {largest} CPUs on the largest node, expected {threads}, the "
            "threads of this process (OMP_NUM_THREADS)"
        )
    return slots, {"num_cpus": threads, "num_gpus": 0}


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected for as long as it is needed: a lost cluster ends the process that is.

    Raises:
        UserError: Ray isn't installed, the cluster can't be reached, or it fails meanwhile.
    """
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pandas") is None:
        raise UserError(
            f"${VARIABLE}: found no ray with its part for data, expected it from "
            "pip install 'prmkd-jax[ray]'"
        )
    host, _, port = address.partition(":")
    if port:  # Ray itself would try for two minutes, and say so in many lines
        with _cluster_errors(address, OSError, OverflowError):
            socket.create_connection((host, int(port)), timeout=10).close()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    terminate = signal.getsignal(signal.SIGTERM)
    # By name, so that who checks types needs no Ray.
    ray = importlib.import_module("ray")
    importlib.import_module("ray.data")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    started = {"include_dashboard": False} if address == "local" else {}
    try:
        with _cluster_errors(address, ConnectionError, RuntimeError, ValueError):
            ray.init(address=address, log_to_driver=False, configure_logging=False, **started)
        with _cluster_errors(address, ray.exceptions.RayError):
            yield ray
    finally:
        ray.shutdown()
        with contextlib.suppress(ValueError, TypeError):  # set elsewhere, or not by Python
            signal.signal(signal.SIGTERM, terminate)


@contextlib.contextmanager
def _cluster_errors(address: str, *kinds: type[Exception]) -> Iterator[None]:
    """Says in a line what goes wrong with the cluster."""
    try:
        yield
    except kinds as error:
        raise UserError(
            f"${VARIABLE}: found that the cluster {address} fails ({_reason(error)}), expected "
            "one that runs; what it has made is kept"
        ) from error


def _reason(error: BaseException) -> str:
    """The last line of what Ray says: before it stand the tracebacks of its workers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


def _require_seen(path: Path) -> None:
    """Waits until a part that a worker has written is seen here.

    Raises:
        UserError: it isn't.
    """
    last = time.monotonic() + _SEEN_AFTER
    while not is_sealed(path):
        if time.monotonic() > last:
            raise UserError(
                f"--cache_dir: {path}: found no part that a node of the cluster wrote there, "
                "expected a folder that all nodes share"
            )
        time.sleep(0.5)
