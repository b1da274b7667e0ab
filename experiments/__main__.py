"""python -m experiments <command> --name=value …; the console script `prmkd` is the same."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the frame handles it, Ctrl-C ends the process at once, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from experiments.cli.command import dispatch, run_command
from experiments.commands.table import COMMANDS


def main() -> None:
    """Runs the command line."""
    name = Path(sys.argv[0]).name
    program = "python -m experiments" if name.endswith(".py") else name

    def words(argv: Sequence[str]) -> None:
        dispatch(argv, COMMANDS, program)

    run_command(words)


if __name__ == "__main__":
    main()
