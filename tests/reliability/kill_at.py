"""`python -m tests.reliability.kill_at <n> <folder> <command> …`: a command killed by itself.

The process sends itself SIGKILL right before its n-th operation on files under `folder`: opening
one for writing, renaming, removing, making or emptying a folder. With n = 0 it is not killed and
the number of operations is written to `$KILL_AT_COUNT`. Operations in compiled code (Orbax's
arrays) are not seen; for those there are kills at random times.
"""

import dataclasses
import os
import signal
import sys
from pathlib import Path

_PATHS = {
    "os.rename": (0, 1), "os.remove": (0,), "os.mkdir": (0,), "os.rmdir": (0,), "os.link": (1,),
    "shutil.rmtree": (0,), "os.truncate": (0,),
}  # fmt: skip


def main() -> None:
    """Runs the command with the hook."""
    last, folder, *argv = sys.argv[1:]
    count = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if not _touches(event, arguments, folder):
            return
        count += 1
        if count == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    sys.argv = ["prmkd", *argv]
    _save_every_epoch()
    from experiments.__main__ import main as run

    try:
        run()
    finally:
        if "KILL_AT_COUNT" in os.environ:
            Path(os.environ["KILL_AT_COUNT"]).write_text(str(count))


def _save_every_epoch() -> None:
    """The student's state is written after every epoch, which otherwise takes ten seconds."""
    from prmkd_jax.train.config import TrainConfig

    fields = dataclasses.fields(TrainConfig)
    values = [0 if field.name == "checkpoint_seconds" else field.default for field in fields]
    TrainConfig.__init__.__defaults__ = tuple(values)


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


if __name__ == "__main__":
    main()
