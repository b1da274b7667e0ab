"""The command `portability`."""

from experiments.cli.command import Command
from experiments.cli.options import PortabilityConfig
from experiments.cli.settings import GROUPS
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="portability",
    summary="Compare the students' programs on CPU, GPU and TPU: operations, costs, precision.",
    groups=(*GROUPS, Group("Portability", "", PortabilityConfig)),
    body="experiments.benchmarks.portability.run:run",
    ignores=frozenset(
        {"student", "max_epochs", "patience", "export_recbole", "log_to", "teacher_scores", "init"}
    ),
    interrupted="interrupted; the same command goes on with the student that was compared",
)
