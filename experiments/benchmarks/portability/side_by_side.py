"""Several things made at once, each in a process of its own that may die without the others."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import TypeVar

_SPAWN = multiprocessing.get_context("spawn")
_T = TypeVar("_T")


def in_processes(
    make: Callable[[str], _T], names: Sequence[str], at_once: int
) -> Iterator[tuple[str, _T | None]]:
    """Each name with what was made of it, as it comes; None where its process died.

    Whoever stops iterating, or is interrupted, ends the processes.

    Args:
        make: a function that `pickle` can hand to another process.
        names: the arguments that it is called with; the first ones begin.
        at_once: processes that run together.
    """
    waiting = list(names)
    running: dict[connection.Connection, tuple[str, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                receiver, sender = _SPAWN.Pipe(duplex=False)
                process = _SPAWN.Process(target=_send, args=(make, name, sender), daemon=True)
                process.start()
                # The other end is the process's alone, so that its death ends the waiting.
                sender.close()
                running[receiver] = name, process
            ready = connection.wait(list(running))
            for receiver in [each for each in running if each in ready]:
                name, process = running.pop(receiver)
                try:
                    made = receiver.recv()
                except EOFError:
                    made = None
                process.join()
                yield name, made
    finally:
        for _, process in running.values():
            process.terminate()


def _send(make: Callable[[str], _T], name: str, sender: connection.Connection) -> None:
    # Ctrl-C goes to the whole group; the first process says it and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender.send(make(name))
