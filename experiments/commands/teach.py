"""The command `teach`."""

from experiments.cli.command import Command
from experiments.cli.options import TeachConfig
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="teach",
    summary="Write what trained students know as files for the teacher `precomputed`.",
    groups=(Group("Teach", "", TeachConfig),),
    body="experiments.stages.teach:run",
    interrupted="interrupted; nothing was written",
)
