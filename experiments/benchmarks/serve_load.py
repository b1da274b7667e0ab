"""The body of `load`: a service under load on this machine, its errors, reloads and memory.

The service is a process of its own; what asks shares the machine's cores with it. Its model has
random weights at the size of Amazon Scientific.
"""

import asyncio
import contextlib
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bridge.runtime import available_cores
from experiments.benchmarks.http_load import Sent, fetch, good_requests, mixed_requests, send
from experiments.benchmarks.random_student import ITEMS, export_random_student
from experiments.cli.command import Call
from experiments.cli.options import LoadConfig
from experiments.stages.environment import describe_environment
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json
from prmkd_jax.common.places import require_place

# Hostile requests are up to 1 MiB each: they come at a rate that one core can send.
_MIXED_RATE = 100.0
_WARMING = 300
# Parts in which many requests are sent.
_PARTS = 20
# Figures of a result that are 0 where all is well.
_WRONG = (
    "failed",
    "unhandled_errors",
    "failed_during_reloads",
    "mixed_wrong_statuses",
    "many_failed",
)


def run(call: Call) -> None:
    """Measures, prints and writes the result file.

    Raises:
        UserError: a request failed that should not have.
    """
    config, say = call.config(LoadConfig), call.reporter.say
    if config.output:
        require_place(Path(config.output).parent, "--output")
    with tempfile.TemporaryDirectory(prefix="prmkd-load-") as name:
        folder = Path(name)
        say("exporting two students of random weights")
        for seed, student in enumerate(("first", "second")):
            export_random_student(folder / student, seed=seed)
        result = measure(folder, config, say)
    for key, value in result.items():
        say(f"{key}: {value}")
    if config.output:
        write_json(Path(config.output), result)
    if any(result.get(name) for name in _WRONG):
        raise UserError("load: found requests that failed, expected none (see above)")


def measure(folder: Path, config: LoadConfig, say: Callable[[str], None]) -> dict[str, object]:
    """Starts the service, asks it, stops it.

    Args:
        folder: holds the exports `first` and `second`.
        config: how much is asked.
        say: receives what is being done.
    """
    link = folder / "current"
    link.symlink_to(folder / "first")
    with started(link) as (process, port):
        memory = _Memory(process.pid)
        asyncio.run(send(port, good_requests(ITEMS, 1), _WARMING, config.rate))
        memory.note("after the start")
        used, own = processor_seconds(process.pid), time.process_time()
        say(f"{config.seconds:g} s at {config.rate:g} requests a second")
        steady = asyncio.run(
            send(port, good_requests(ITEMS, 2), round(config.seconds * config.rate), config.rate)
        )
        _require_answers(steady)
        load, used = os.getloadavg()[0], processor_seconds(process.pid) - used
        own = time.process_time() - own
        memory.note("after the steady rate")
        say(f"{config.reloads} newer models under load")
        reloaded = asyncio.run(_reload(folder, port, config))
        memory.note("after the reloads")
        mixed: list[Sent] = []
        for part in range(2):
            say(f"{config.mixed // 2} good and hostile requests")
            requests = mixed_requests(ITEMS, 3 + part)
            mixed += asyncio.run(send(port, requests, config.mixed // 2, _MIXED_RATE))
            memory.note(f"after {len(mixed)} mixed requests")
        many = _many(port, config.many, memory, say)
        text = asyncio.run(fetch(port, "/metrics"))
    return {
        "environment": describe_environment(),
        "cores": available_cores(),
        "load_average": round(load, 2),
        **_latency(steady, config),
        "processor_ms_per_request": round(used / len(steady) * 1000, 3),
        "asking_processor_ms_per_request": round(own / len(steady) * 1000, 3),
        "mixed_statuses": dict(sorted(Counter(str(one.status) for one in mixed).items())),
        "mixed_wrong_statuses": sum(not one.expected for one in mixed),
        "unhandled_errors": _figure(text, "prmkd_unhandled_errors_total"),
        "reloads": _figure(text, 'prmkd_reloads_total{result="done"}'),
        "requests_during_reloads": len(reloaded),
        "failed_during_reloads": sum(not one.expected for one in reloaded),
        **many,
        "memory_mib": memory.noted,
    }


def _require_answers(sent: Sequence[Sent]) -> None:
    if not any(one.status == 200 for one in sent):
        raise UserError(f"load: found none of {len(sent)} requests answered, expected some")


def _many(
    port: int, count: int, memory: "_Memory", say: Callable[[str], None]
) -> dict[str, float | int]:
    """As fast as they are answered, in parts; memory is noted after each."""
    if not count:
        return {}
    started, failed, done = time.perf_counter(), 0, 0
    while done < count:
        part = min(-(-count // _PARTS), count - done)
        say(f"{done} of {count} requests at full speed")
        sent = asyncio.run(send(port, good_requests(ITEMS, 10 + done), part, math.inf))
        failed += sum(not one.expected for one in sent)
        done += part
        memory.note(f"after {done} at full speed")
    seconds = time.perf_counter() - started
    return {"many": count, "many_failed": failed, "many_per_second": round(count / seconds, 1)}


class _Memory:
    """What a process holds, in MiB, at moments that have a name."""

    def __init__(self, pid: int):
        self._pid = pid
        self.noted: dict[str, float] = {}

    def note(self, moment: str) -> None:
        self.noted[moment] = round(resident(self._pid) / 2**20, 1)


@contextlib.contextmanager
def started(model: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Runs `serve` on a free port; yields the process and the port once it answers.

    Raises:
        UserError: it ends before.
    """
    command = [sys.executable, "-m", "experiments", "serve", f"--model={model}"]
    with subprocess.Popen(
        [*command, "--port=0", "--reload_every=0.5"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            port = None
            for line in process.stdout or ():
                if " at http://" in line:
                    port = int(line.strip().strip("/").rpartition(":")[2])
                    break
            if port is None:
                raise UserError(
                    f"load: found serve ended with {process.wait()}, expected it to run"
                )
            yield process, port
        finally:
            process.terminate()


async def _reload(folder: Path, port: int, config: LoadConfig) -> list[Sent]:
    """Moves the link from one export to the other while requests are sent."""
    seconds = 4.0 * config.reloads

    async def move() -> None:
        for number in range(config.reloads):
            await asyncio.sleep(3.0)
            newer = folder / "newer"
            newer.symlink_to(folder / ("second" if number % 2 == 0 else "first"))
            os.replace(newer, folder / "current")

    rate = config.rate / 2
    sent, _ = await asyncio.gather(
        send(port, good_requests(ITEMS, 5), round(seconds * rate), rate), move()
    )
    return sent


def _latency(sent: Sequence[Sent], config: LoadConfig) -> dict[str, object]:
    answered = np.array([one.seconds for one in sent if one.status == 200])
    # The last answer may come after the last request was due.
    seconds = config.seconds + float(answered[-1])
    percentiles = np.percentile(answered, [50, 90, 99])
    return {
        "requests": len(sent),
        "answered": sum(one.status == 200 for one in sent),
        "failed": sum(not one.expected for one in sent),
        "requests_per_second": round(len(answered) / seconds, 1),
        **{
            f"p{name}_ms": round(float(value) * 1000, 2)
            for name, value in zip((50, 90, 99), percentiles, strict=True)
        },
    }


def resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where the system doesn't say."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def processor_seconds(pid: int) -> float:
    """Seconds of all cores that a process has used; 0 where the system doesn't say.

    Unlike a latency it hardly depends on what else the machine does.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _figure(text: str, name: str) -> int:
    """One figure of Prometheus' text."""
    return int(float(text.partition(f"\n{name} ")[2].split()[0]))
