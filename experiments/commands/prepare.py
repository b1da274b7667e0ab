"""The command `prepare`."""

from experiments.cli.command import Command
from prmkd_jax.common.options import Group
from prmkd_jax.data.sources.config import PrepareConfig
from teachers_torch.config import ImageConfig

COMMAND = Command(
    name="prepare",
    summary="Turn raw files (csv, parquet, Amazon, RecBole, …) into a data set.",
    groups=(
        Group("Prepare", "", PrepareConfig),
        Group("Images, with --encode_images", "", ImageConfig),
    ),
    body="experiments.stages.prepare:run",
    interrupted="interrupted; the same command goes on with what was being downloaded",
    computes=False,
)
