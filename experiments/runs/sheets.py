"""The data sheets of what is about to be run, shown before anything is trained."""

from collections.abc import Iterable

from experiments.cli.console import Reporter
from experiments.runs.plan import PlannedRun
from experiments.stages.sheets import show_sheet


def show_sheets(plans: Iterable[PlannedRun], reporter: Reporter) -> None:
    """Shows the sheet of each data set and split once."""
    tasks = {(plan.task.dataset.fingerprint, plan.task.split_digest): plan.task for plan in plans}
    for task in tasks.values():
        show_sheet(task, reporter)
