"""The command `update`."""

from experiments.cli.command import Command
from experiments.cli.settings import GROUPS
from prmkd_jax.common.options import Group
from prmkd_jax.serve.config import UpdateConfig

COMMAND = Command(
    name="update",
    summary="Take an exported student to today's data: new items, new users, a few more epochs.",
    groups=(Group("Update", "", UpdateConfig), *GROUPS),
    body="experiments.runs.update:run",
    completed="experiments.stages.yesterday:completed",
    reads="experiments.stages.new_rows:reads",
)
