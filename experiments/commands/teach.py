"""The command `teach`."""

from experiments.cli.command import Command
from experiments.cli.flags import Group
from experiments.cli.options import TeachConfig

COMMAND = Command(
    name="teach",
    summary="Write what trained students know as files for the teacher `precomputed`.",
    groups=(Group("Teach", "", TeachConfig),),
    body="experiments.stages.teach:run",
    interrupted="interrupted; nothing was written",
)
