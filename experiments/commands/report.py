"""The command `report`."""

from experiments.cli.command import Command
from experiments.cli.options import ReportConfig
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="report",
    summary="Write tables, page and figures of a finished run or study again.",
    groups=(Group("Report", "", ReportConfig),),
    body="experiments.runs.report:run",
    computes=False,
)
