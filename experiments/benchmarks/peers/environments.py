"""The peers' environments: made from pinned requirements once, in the cache, then reused."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from prmkd_jax.common.cache import Cache, locked
from prmkd_jax.common.errors import first_line
from prmkd_jax.common.files import write_text

ROOM = "peers"
_COMPLETE = "complete"
_SECONDS = 1800  # for one environment: torch alone is hundreds of megabytes


class UnmadeError(Exception):
    """An environment can't be made here; the message says why."""


def environment(cache: Cache, requirements: Path, say: Callable[[str], None]) -> Path:
    """The Python of the environment of a requirements file; made unless it is there, complete.

    Args:
        cache: the cache; the environments are kept in its room `peers`.
        requirements: exact pins.
        say: takes a line.

    Raises:
        UnmadeError: it can't be made.
    """
    content = f"{sys.version_info.major}.{sys.version_info.minor}\n{requirements.read_text()}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    folder = cache.room(ROOM) / f"{requirements.stem}-{digest}"
    python = folder / "bin" / "python"
    if (folder / _COMPLETE).is_file():
        return python
    with locked(folder):
        if not (folder / _COMPLETE).is_file():
            say(f"{requirements.stem}: its environment is made in {folder}; some minutes, once")
            _run([sys.executable, "-m", "venv", "--clear", str(folder)])
            _run([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
            write_text(folder / _COMPLETE, content)
    return python


def own_environment(variables: dict[str, str]) -> dict[str, str]:
    """The variables without those that lead to another environment's packages."""
    others = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {name: value for name, value in variables.items() if name not in others}


def _run(command: Sequence[str]) -> None:
    """Runs a command.

    Raises:
        UnmadeError: it fails, or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=own_environment(dict(os.environ)),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnmadeError(first_line(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        told = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
        raise UnmadeError(told.strip())
