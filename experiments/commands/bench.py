"""The command `bench`."""

from experiments.cli.command import Command
from experiments.cli.options import BenchConfig
from experiments.cli.settings import GROUPS
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="bench",
    summary="Measure what training, teachers, rankings or served requests cost on this machine.",
    groups=(*GROUPS, Group("Benchmark", "", BenchConfig)),
    body="experiments.benchmarks.suites:run",
    interrupted="interrupted; the same command begins again",
)
