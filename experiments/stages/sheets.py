"""The data sheet on the terminal."""

from typing import cast

from experiments.cli.console import Reporter
from experiments.reporting.results import Data
from experiments.reporting.tables import data_lines
from experiments.stages.record import describe_data
from prmkd_jax.data.task import Task


def show_sheet(task: Task, reporter: Reporter) -> None:
    """Says Table 2's columns and the remarks, and warns of what is likely a mistake."""
    for line in (*data_lines(cast(Data, describe_data(task))), *task.sheet.remarks):
        reporter.say(line)
    for warning in task.sheet.warnings:
        reporter.warn(str(warning))
