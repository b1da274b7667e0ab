"""python -m experiments.main --flagfile=scientific.cfg: the command `train`."""

from collections.abc import Sequence

from experiments.cli.command import execute, run_command
from experiments.commands.train import COMMAND


def main(argv: Sequence[str]) -> None:
    """Tunes the teachers, trains the student alone and distilled, and reports both."""
    execute(COMMAND, argv, "python -m experiments.main")


if __name__ == "__main__":
    run_command(main)
