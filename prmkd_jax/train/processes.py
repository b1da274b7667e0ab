"""Several processes that train one student together, each with its own devices.

All run the same program on the same data; the first one alone decides and writes. It says over
JAX's coordination service what is trained next, so the others need neither its decisions nor its
locks. Where one of them ends, JAX ends all the others.
"""

import atexit
import contextlib
import ctypes
import functools
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
from jax._src import distributed
from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

from prmkd_jax.common.errors import UserError
from prmkd_jax.train.launch import AUTO, COORDINATOR, PROCESSES, Given, asked, own_devices

LOST = 3
"""Exit status where another process has ended."""

# Seconds after which a process that says nothing counts as ended, and for which all wait for each
# other at the beginning and at the end.
_SILENCE = 20
_START = 300
_END = 60
_LINE = b"error: another process has ended or can't be reached; the same command in all goes on\n"
# What sets the variables in which JAX finds the others.
_STARTS = "a start by srun, mpirun, Kubernetes (with JAX's extra k8s), or on a TPU slice"
_NUMBERS = itertools.count()

T = TypeVar("T")


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Is one of the processes; where another one ends, this one ends too, with one line.

    Must come before JAX looks for its devices.

    Raises:
        UserError: as `asked`; or the others aren't found.
    """
    given = asked()
    if given is None:
        yield
        return
    _join(given)
    try:
        yield
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            # What other processes have left unanswered is no error of this one: that they have
            # ended is heard of a little later, and ends this one.
            time.sleep(_SILENCE + 10)
        _leave(error)
        raise
    jax.distributed.shutdown()


def writes() -> bool:
    """Whether this process is the one that decides, and writes files."""
    return jax.process_index() == 0


def the_first_says(value: T) -> T:
    """The first process's value, in all of them.

    Args:
        value: JSON content; only the first one's counts.
    """
    if jax.process_count() == 1:
        return value
    if writes():
        _client().key_value_set(f"prmkd/{next(_NUMBERS)}", json.dumps(value))
        return value
    return json.loads(_next())


# What a process gives that only hears: nothing of it counts.
_NO_WORD: dict[str, Any] = {}


def lead(order: Mapping[str, object]) -> None:
    """Tells the other processes what is trained next."""
    the_first_says({"order": order})


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """Tells the other processes at its end that no more orders come."""
    yield
    the_first_says({"order": None})


def orders() -> Iterator[dict[str, Any]]:
    """What the first process says is trained next, until it says that nothing is."""
    while (order := the_first_says(_NO_WORD)["order"]) is not None:
        yield order


def _join(given: Given) -> None:
    # Otherwise SIGTERM, by which schedulers end a process, would be noted and nothing more.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _ending_quietly():
            jax.distributed.initialize(
                *given,
                local_device_ids=own_devices(),
                initialization_timeout=_START,
                heartbeat_timeout_seconds=_SILENCE,
                shutdown_timeout_seconds=_END,
            )
        # At once: while they tell each other their devices none would hear that another has ended.
        jax.devices()
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        where, expected = f"{COORDINATOR}={given.coordinator_address}", "them to be started too"
        if given == Given():
            where, expected = f"{PROCESSES}={AUTO}", _STARTS
        raise UserError(
            f"${where}: found no other processes ({text}), expected {expected}"
        ) from error


@contextlib.contextmanager
def _ending_quietly() -> Iterator[None]:
    """Has JAX's client, once it is made, end this process with one line.

    By itself it aborts with a stack trace as soon as it hears that another process has ended. It
    takes a function to be called instead, but can't call one of Python's: the status that it would
    hand over has no form there, which ends the process too, by way of C++'s terminate handler.
    """
    # Kept for ever: C++ calls it from a thread of its own.
    handler = ctypes.CFUNCTYPE(None)(_end)
    _KEPT.append(handler)
    with contextlib.suppress(OSError, AttributeError):
        # std::set_terminate; a C++ library of another kind leaves the abort.
        ctypes.CDLL("libstdc++.so.6")._ZSt13set_terminatePFvvE(handler)
    library: Any = _jax
    client = library.get_distributed_runtime_client
    library.get_distributed_runtime_client = functools.partial(
        client, missed_heartbeat_callback=print
    )
    try:
        yield
    finally:
        library.get_distributed_runtime_client = client


_KEPT: list[Any] = []


def _end() -> None:
    os.write(2, _LINE)
    # Not by way of JAX's own end, which waits for the other processes.
    os._exit(LOST)


def _leave(error: BaseException) -> None:
    """Has JAX not wait, when this process ends, for the others, who learn of it by that end."""
    status = 1
    if isinstance(error, (UserError, OSError, MemoryError)):
        status = 2
    elif isinstance(error, KeyboardInterrupt):
        status = 128 + signal.SIGINT

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)

    # What is registered last is called first: before JAX's own.
    atexit.register(end)


def _next() -> str:
    key = f"prmkd/{next(_NUMBERS)}"
    while True:
        try:
            # For hours, where the first one tunes teachers.
            return _client().blocking_key_value_get(key, 10_000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _client() -> Any:
    # JAX's own, which it hands out nowhere else.
    return distributed.global_state.client
