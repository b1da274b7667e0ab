"""The command `prepare`."""

from experiments.cli.command import Command
from experiments.cli.flags import Group
from prmkd_jax.data.sources.config import PrepareConfig

COMMAND = Command(
    name="prepare",
    summary="Turn raw files (csv, parquet, Amazon, RecBole, …) into a data set.",
    groups=(Group("Prepare", "", PrepareConfig),),
    body="experiments.stages.prepare:run",
    interrupted="interrupted; the data set was not written, downloads go on from here",
)
