"""New processes with several simulated CPU devices."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
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


@contextlib.contextmanager
def start_together(devices: int, *commands: Sequence[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Several Pythons that find each other on this machine; none outlives the block.

    Args:
        devices: of each.
        commands: each one's arguments.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    given = {"PRMKD_COORDINATOR": f"localhost:{port}", "PRMKD_PROCESSES": str(len(commands))}
    together = {**os.environ, **given, "XLA_FLAGS": flags}
    # JAX has set it in this process; in the new ones the command line does.
    together.pop("TF_CPP_MIN_LOG_LEVEL", None)
    started = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**together, "PRMKD_PROCESS": str(process)},
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


def run_together(processes: int, devices: int, *arguments: str, seconds: int = 900) -> list[Any]:
    """What each of several processes says in its last line, as JSON."""

    def end(process: subprocess.Popen[str]) -> tuple[str, str]:
        return process.communicate(timeout=seconds)

    # All are read at once: one whose pipe is full would keep the others waiting.
    together = start_together(devices, *[arguments] * processes)
    with together as started, ThreadPoolExecutor(processes) as threads:
        ended = list(threads.map(end, started))
    for process, (_, told) in zip(started, ended, strict=True):
        assert process.returncode == 0, told[-3000:]
    return [json.loads(shown.splitlines()[-1]) for shown, _ in ended]
