"""Parts of rows made on a Ray cluster, if `$PRMKD_RAY` names one, else here.

A part is the unit of work: who makes it batches it in the same way everywhere, and writes it into
the shared cache, complete or not at all. So it doesn't matter which node made which, and what is
there is never made again: not after a kill, and not where Ray repeats a part of a lost node.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import Make, Parts, make_in_parts, make_part, part_file, ranges
from prmkd_jax.common.sealed import is_sealed
from teachers_torch.teacher import ENCODER_VERSION

_LOG = logging.getLogger(__name__)

VARIABLE = "PRMKD_RAY"
"""`local` for a cluster of this machine alone, `auto` for the one that runs here, or HOST:PORT."""
Recipe = Callable[[], Make]
"""Loads what makes rows, once a process; for a cluster it must be fit to be pickled."""
_ADDRESS = re.compile(r"local|auto|[^\s/:]+:[0-9]{1,5}")
# Seconds until a file that another machine has written is seen through a network file system.
_SEEN_AFTER = 60.0
# Settled by the command before it imported torch; a worker's process starts with them too.
_HANDED_ON = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY"),
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


def require_cluster() -> None:
    """Finds what would stop the encoding on a cluster, if one is asked for.

    Raises:
        UserError: Ray isn't installed, or the cluster can't be reached or is too small.
    """
    address = asked_cluster()
    if address is not None:
        _require(address)


@functools.cache
def _require(address: str) -> None:
    with _connected(address) as ray:
        _slots(ray)


def make_parts(
    folder: Path,
    rows: int,
    size: int,
    recipe: Recipe,
    progress: Callable[[int, int], None],
    there: Recipe | None = None,
) -> Parts:
    """`make_in_parts`, on the cluster that is asked for or here.

    Args:
        folder: as there; on a cluster a place that all nodes share.
        rows: as there.
        size: as there.
        recipe: loads what makes the rows; not called if all are there.
        progress: as there.
        there: does the same on another machine; by default `recipe` does.

    Raises:
        UserError: what `recipe` and its rows raise, or the cluster fails.
    """
    address = asked_cluster()
    if address is not None:
        folder.mkdir(parents=True, exist_ok=True)
        missing = [part for part in ranges(rows, size) if not is_sealed(part_file(folder, *part))]
        if missing:
            done = rows - sum(stop - start for start, stop in missing)
            maker = PartMaker(folder, there or recipe)
            for start, stop in _made(address, missing, maker):
                done += stop - start
                progress(done, rows)
    make = functools.cache(recipe)
    return make_in_parts(folder, rows, size, lambda a, b: make()(a, b), progress)


class PartMaker:
    """Makes parts: what Ray Data's `map_batches` calls on every worker, and whoever else likes.

    It is given a batch of parts, `start` and `stop`, and returns it with `fault`, what a user
    has to be told, or "". The rows go into the files of `folder`.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        """Notes where and with what this process works, for those that it is sent to."""
        self.folder = folder.absolute()
        self._recipe = recipe
        self._here = Path.cwd()
        self._versions = _versions()
        self._make: Make | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what was loaded: that is loaded where it is used."""
        return {**self.__dict__, "_make": None}

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Makes the parts that aren't there."""
        parts = zip(batch["start"].tolist(), batch["stop"].tolist(), strict=True)
        return {**batch, "fault": np.array([self._fault(*part) for part in parts])}

    def _fault(self, start: int, stop: int) -> str:
        try:
            make_part(self.folder, start, stop, lambda a, b: self._load()(a, b))
        except UserError as error:
            return str(error) or "found a mistake"
        return ""

    def _load(self) -> Make:
        if self._make is None:
            if _versions() != self._versions:
                raise UserError(
                    f"${VARIABLE}: found a node with {_versions()}, expected the versions of the "
                    f"machine that asks, {self._versions}"
                )
            if self._here != Path.cwd() and self._here.is_dir():
                os.chdir(self._here)  # flags may name files by relative paths
            self._make = self._recipe()
        return self._make


class _RayMaker:
    """A worker of Ray's: the part maker that it was sent, with the sender's number of threads."""

    def __init__(self, maker: PartMaker, threads: int):
        # Sums in another number of parts may have other last bits.
        torch.set_num_threads(threads)
        self._maker = maker

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._maker(batch)


def _made(
    address: str, missing: Sequence[tuple[int, int]], maker: PartMaker
) -> Iterator[tuple[int, int]]:
    """Has the parts made; yields each once it is there.

    Ray gives up a part whose node is lost, and is then asked for it again, as long as any of a
    round's parts comes. It could also wait for the lost worker, for ever if no node has room.

    Raises:
        UserError: a part can't be made, can't be seen here, or the cluster fails.
    """
    left = set(missing)
    with _connected(address) as ray:
        while left:
            before = len(left)
            for start, stop, fault in _round(ray, sorted(left), maker):
                if fault:
                    raise UserError(fault)
                _require_seen(part_file(maker.folder, start, stop))
                left.discard((start, stop))
                yield start, stop
            if len(left) == before:
                raise UserError(
                    f"${VARIABLE}: found that none of {before} parts was made on {address}; "
                    "expected nodes with this project and its teachers installed (Ray's own logs "
                    "say more: /tmp/ray/session_latest/logs)"
                )
            if left:
                _LOG.warning("$%s: a node was lost; %d parts are made again", VARIABLE, len(left))


def _round(
    ray: Any, parts: Sequence[tuple[int, int]], maker: PartMaker
) -> Iterator[tuple[int, int, str]]:
    """One pass of Ray Data over the parts: those that were made, and what went wrong."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    slots, resources = _slots(ray)
    rows = [{"start": start, "stop": stop} for start, stop in parts]
    with warnings.catch_warnings():
        # Ray 2.60 warns of the last two arguments, which 2.64 is to drop; `_made` says what for.
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    terminate = signal.getsignal(signal.SIGTERM)
    # By name, so that who checks types needs no Ray.
    ray = importlib.import_module("ray")
    importlib.import_module("ray.data")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    started = {"include_dashboard": False} if address == "local" else {}
    try:
        with _told(address, ConnectionError, RuntimeError, ValueError):
            ray.init(address=address, log_to_driver=False, configure_logging=False, **started)
        with _told(address, ray.exceptions.RayError):
            yield ray
    finally:
        ray.shutdown()
        with contextlib.suppress(ValueError, TypeError):  # set elsewhere, or not by Python
            signal.signal(signal.SIGTERM, terminate)


@contextlib.contextmanager
def _told(address: str, *kinds: type[Exception]) -> Iterator[None]:
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


def _versions() -> dict[str, str]:
    """What must be equal on all machines, so that vectors are."""
    packages = {name: metadata.version(name) for name in ("torch", "transformers")}
    return {**packages, "encoder": str(ENCODER_VERSION)}
