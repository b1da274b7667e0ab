"""New processes with several simulated CPU devices."""

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def run_on_devices(count: int, *arguments: str, seconds: int = 300) -> Any:
    """What Python says, as JSON, when it is started with these arguments."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


Launch = Callable[[int], Callable[[int], dict[str, str]]]
"""How many processes → which one → the variables that say so."""


def by_hand(processes: int) -> Callable[[int], dict[str, str]]:
    """As a user says it."""
    shared = {"PRMKD_COORDINATOR": f"localhost:{_free_port([0])}"}
    shared["PRMKD_PROCESSES"] = str(processes)
    return lambda process: {**shared, "PRMKD_PROCESS": str(process)}


def by_slurm(processes: int) -> Callable[[int], dict[str, str]]:
    """As `srun` says it to its tasks, all on this machine, of which JAX knows."""
    # JAX makes the port of the job's number: the last 4,096 ports there are, in turn.
    first = 2**16 - 2**12
    port = _free_port(random.sample(range(first, 2**16), 50))
    shared = {
        "PRMKD_PROCESSES": "auto",
        "SLURM_JOB_ID": str(3 * 2**12 + port - first),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(processes),
    }
    return lambda process: {
        **shared,
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


def _free_port(ports: Iterable[int]) -> int:
    for port in ports:
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("localhost", port))
            return free.getsockname()[1]
    raise OSError("no port is free")


@contextlib.contextmanager
def start_together(
    devices: int, *commands: Sequence[str], launch: Launch = by_hand
) -> Iterator[list[subprocess.Popen[str]]]:
    """Several Pythons that find each other on this machine; none outlives the block.

    Args:
        devices: of each.
        commands: each one's arguments.
        launch: how they are told of each other.
    """
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    together = {**os.environ, "XLA_FLAGS": flags}
    # JAX has set it in this process; in the new ones the command line does.
    together.pop("TF_CPP_MIN_LOG_LEVEL", None)
    told = launch(len(commands))
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**together, **told(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, arguments in enumerate(commands)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()


def end_together(
    devices: int, *commands: Sequence[str], launch: Launch = by_hand, seconds: int = 900
) -> list[str]:
    """What each of several processes shows; all must end without an error."""

    def end(process: subprocess.Popen[str]) -> tuple[str, str]:
        return process.communicate(timeout=seconds)

    # All are read at once: one whose pipe is full would keep the others waiting.
    together = start_together(devices, *commands, launch=launch)
    with together as started, ThreadPoolExecutor(len(commands)) as threads:
        ended = list(threads.map(end, started))
    for process, (_, told) in zip(started, ended, strict=True):
        assert process.returncode == 0, told[-3000:]
    return [shown for shown, _ in ended]


def run_together(processes: int, devices: int, *arguments: str, seconds: int = 900) -> list[Any]:
    """What each of several processes says in its last line, as JSON."""
    shown = end_together(devices, *[arguments] * processes, seconds=seconds)
    return [json.loads(text.splitlines()[-1]) for text in shown]
