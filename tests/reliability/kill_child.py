"""Commands in forked children of a process that has everything imported: a start costs no seconds.

A child is a process of its own that shares no file with its parent: a signal ends it as it would
end one that was started from a shell. Before a chosen operation on a file (opening one for
writing, renaming, removing, making or emptying a folder) it sends itself the signal; operations
of compiled code (Orbax's arrays, parquet) are not seen, so there are signals at random times too.
"""

import contextlib
import dataclasses
import errno
import gc
import importlib
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

_PATHS = {
    "os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "shutil.rmtree": (0,), "os.truncate": (0,),
}  # fmt: skip
# What needs no room.
_FREEING = ("os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")
_LONGEST = 600.0
# What a command reads of the environment before jax and torch are imported.
_ENVIRONMENT = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_PLATFORMS": "cpu",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "PJRT_NPROC": "1", "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000",
    "TF_CPP_MIN_LOG_LEVEL": "2", "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
# What the commands import, beside what they import when they begin.
_ALWAYS = ("experiments.__main__", "experiments.cli.console")


class Stop(NamedTuple):
    """What happens to a child, and when.

    Attributes:
        operation: before this operation, from 1; 0 for never.
        seconds: after so many of its processor's time, so that other programs change nothing;
            0 for never.
        signal: what it is sent.
        full: whether the operation fails instead, as on a disk that is full.
    """

    operation: int = 0
    seconds: float = 0.0
    signal: int = signal.SIGKILL
    full: bool = False


NEVER = Stop()


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        status: exit status; minus a signal's number where that ended it.
        seconds: processor's time from the fork to the end.
        stopped: whether it was sent the signal while it ran.
        after: processor's time from the signal to the end; 0 without one from outside.
    """

    status: int
    seconds: float
    stopped: bool
    after: float = 0.0


def preload(programs: Path, modules: Iterable[str]) -> None:
    """Imports all that the commands need, once; nothing is computed, so no thread is started.

    Args:
        programs: folder of XLA's compiled programs, which all children share.
        modules: what to import.
    """
    os.environ.update(_ENVIRONMENT, JAX_COMPILATION_CACHE_DIR=str(programs))
    for name in (*_ALWAYS, *modules):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def in_child(function: Callable[[Path], None], place: Path) -> None:
    """Calls a function in a child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function(place)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{function} failed")


def said_of(place: Path) -> Path:
    """The file that gets what commands in a folder say."""
    return place.with_name(f"{place.name}.said")


def start_child(
    argv: tuple[str, ...],
    place: Path,
    stop: Stop = NEVER,
    count: Path | None = None,
    said: Path | None = None,
) -> int:
    """Starts a command in a child; returns its process id.

    Args:
        argv: command and flags.
        place: its folder.
        stop: when it is stopped.
        count: where the number of operations is written at its end.
        said: file that gets what it says, by default `said_of`; not in its folder, which may be
            full.
    """
    child = os.fork()
    if child == 0:
        _command(argv, place, stop, count, said or said_of(place))
    return child


def run_child(
    argv: tuple[str, ...], place: Path, stop: Stop = NEVER, count: Path | None = None
) -> Ended:
    """Runs a command in a child and waits for its end.

    Args:
        argv: command and flags.
        place: its folder; what it says is added to `said_of` it.
        stop: when it is sent a signal.
        count: where the number of operations is written at its end.
    """
    child = start_child(argv, place, stop, count)
    sent = bool(stop.seconds) and _used(child, stop.seconds)
    if sent:
        os.kill(child, stop.signal)
    ended, usage = _wait(child)
    status = os.waitstatus_to_exitcode(ended)
    # At an operation the child does it itself.
    stopped = sent or (bool(stop.operation) and status in (-stop.signal, 130, 2))
    seconds = usage.ru_utime + usage.ru_stime
    return Ended(status, seconds, stopped, seconds - stop.seconds if sent else 0.0)


def _used(child: int, seconds: float) -> bool:
    """Waits until a child has used so much of its processor's time; False if it ended before."""
    clock = (~child << 3) | 2  # Linux's number of the clock of a process
    descriptor = os.pidfd_open(child)
    try:
        while not select.select([descriptor], [], [], 0.003)[0]:
            if time.clock_gettime(clock) >= seconds:
                return True
        return False
    finally:
        os.close(descriptor)


def _wait(child: int) -> tuple[int, resource.struct_rusage]:
    """Waits for a child's end, which may not take for ever.

    Raises:
        TimeoutError: it hangs; it is killed.
    """
    descriptor = os.pidfd_open(child)
    over = not select.select([descriptor], [], [], _LONGEST)[0]
    os.close(descriptor)
    if over:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise TimeoutError(f"a command had not ended after {_LONGEST} seconds")
    return os.wait4(child, 0)[1:]


def _command(
    argv: tuple[str, ...], place: Path, stop: Stop, count: Path | None, name: Path
) -> None:
    """The child; never returns."""
    status = 1
    try:
        os.chdir(place)
        said = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(said, descriptor)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _small_parts()
        done = _watch(str(place), stop)
        sys.argv = ["prmkd", *argv]
        from experiments.__main__ import main

        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if count is not None:
            count.write_text(str(done()))
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _watch(folder: str, stop: Stop) -> Callable[[], int]:
    """Counts the operations on files of the folder, and stops before one of them."""
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if not _touches(event, arguments, folder):
            return
        if stop.full and event in _FREEING:
            return
        count += 1
        if count != stop.operation:
            return
        if stop.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        os.kill(os.getpid(), stop.signal)

    sys.addaudithook(hook)
    return lambda: count


def _small_parts() -> None:
    """What is written every so often is written often: parts of a few rows, every epoch's state."""
    if "prmkd_jax.serve.answers" in sys.modules:
        sys.modules["prmkd_jax.serve.answers"].BLOCK = 7
    if "experiments.runs.train" in sys.modules:
        from prmkd_jax.train.config import TrainConfig

        set_default(TrainConfig, "checkpoint_seconds", 0)
    if "torch" in sys.modules:
        from teachers_torch import shards
        from teachers_torch.config import ImageConfig
        from teachers_torch.items import image, text

        text.CHUNK, image.PART = 8, 4
        assert shards.encode_in_shards.__defaults__ == (shards.SHARD_SIZE,)
        shards.encode_in_shards.__defaults__ = (24,)
        set_default(ImageConfig, "image_batch_size", 4)


def set_default(config: type, name: str, value: object) -> None:
    """Another default of a field that no flag sets."""
    fields = [field for field in dataclasses.fields(config) if field.init]
    values = [value if field.name == name else field.default for field in fields]
    config.__init__.__defaults__ = tuple(values)  # type: ignore[misc]


def _touches(event: str, arguments: tuple, folder: str) -> bool:
    """Whether an audit event is a change of a file in the folder."""
    if event == "open":
        path, _, flags = arguments
        if not (flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return False
        paths = [path]
    elif event in _PATHS:
        paths = [arguments[place] for place in _PATHS[event]]
    else:
        return False
    return any(
        isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(folder)
        for path in paths
    )
