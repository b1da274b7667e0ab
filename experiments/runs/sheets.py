"""The data sheets of what is about to be run, shown before anything is trained."""

from collections.abc import Iterable
from typing import cast

from experiments.cli.console import Reporter
from experiments.reporting.results import Data
from experiments.reporting.tables import data_lines
from experiments.runs.plan import PlannedRun
from experiments.stages.record import describe_data


def show_sheets(plans: Iterable[PlannedRun], reporter: Reporter) -> None:
    """Shows Table 2's columns, remarks and warnings, once for each data set and split."""
    tasks = {(plan.task.dataset.fingerprint, plan.task.split_digest): plan.task for plan in plans}
    for task in tasks.values():
        for line in (*data_lines(cast(Data, describe_data(task))), *task.sheet.remarks):
            reporter.say(line)
        for warning in task.sheet.warnings:
            reporter.warn(str(warning))
