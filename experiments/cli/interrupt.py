"""Ctrl-C stops a command at any moment.

Python raises `KeyboardInterrupt` in whatever runs, and where that is a callback of the garbage
collector, of which JAX has one, or a destructor, Python reports the exception and goes on: about
one Ctrl-C in five did nothing. Here a lost interrupt is raised again as soon as the callback is
over. A second Ctrl-C ends the process at once, whatever it is in: every file is written complete
or not at all, so nothing is lost that the first would have kept.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

# Seconds until a lost interrupt is raised again: the callback that lost it must have returned.
_AGAIN = 0.02


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Handles SIGINT inside; where it was ignored, as under `nohup`, it still is."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield
        return
    handler = signal.signal(signal.SIGINT, _interrupt)
    hook = sys.unraisablehook
    sys.unraisablehook = _raise_again
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first Ctrl-C; the next one is the system's to handle, also inside compiled code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Raises an interrupt that Python could only report; reports everything else."""
    if lost.exc_type is not None and issubclass(lost.exc_type, KeyboardInterrupt):
        signal.signal(signal.SIGINT, _interrupt)
        main = threading.main_thread().ident
        again = threading.Timer(_AGAIN, signal.pthread_kill, [main, signal.SIGINT])
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)
