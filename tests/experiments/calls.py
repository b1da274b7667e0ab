"""Commands called in this process, and runs of a few seconds."""

import io
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from experiments.cli.command import Call, Command
from experiments.cli.console import Reporter
from experiments.cli.flags import parse
from experiments.runs.finished import FinishedRun, finish_run, ready_teachers
from experiments.runs.plan import plan_runs, shared_place
from experiments.stages.teachers import ReadyTeacher

SMALL = (
    "--synthetic_users=40",
    "--synthetic_items=30",
    "--hidden_size=8",
    "--num_layers=1",
    "--inner_size=8",
    "--batch_size=64",
    "--max_seq_len=8",
    "--max_epochs=3",
)
"""A world and a student that train in seconds."""


def make_call(command: Command, argv: list[str], topic: str = "") -> tuple[Call, io.StringIO]:
    """What a command's body gets, and the text that it prints.

    Args:
        command: which one.
        argv: its flags.
        topic: its further word.
    """
    stream = io.StringIO()
    parsed = parse(argv, command.groups)
    reporter = Reporter(Console(file=stream, width=200))
    reporter.console = Console(file=stream, width=200)
    call = Call(
        command, tuple(argv), parsed.configs, parsed.explicit, reporter, (), topic, parsed.given
    )
    return call, stream


def finished_run(
    configs: Mapping[type, object], folder: Path, *, rank_test: bool = True
) -> FinishedRun:
    """One run in a shared folder, trained unless it is there.

    Args:
        configs: as parsed.
        folder: holds all runs.
        rank_test: whether it ranks the test part.
    """
    (plan,) = plan_runs([configs], rank_test=rank_test)
    reporter, place = Reporter(Console(quiet=True)), shared_place(folder, plan)
    ready: dict[str, ReadyTeacher] = {}
    ready_teachers(plan, place, reporter, ready)
    return finish_run(plan, place, ready, reporter)
