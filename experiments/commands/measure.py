"""The command `measure`."""

from experiments.cli.command import Command
from experiments.cli.options import MeasureConfig
from experiments.cli.settings import GROUPS
from experiments.cli.unread import STUDENT_START
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="measure",
    summary="Measure what a student makes of items, or of users, that it was not trained with.",
    groups=(*GROUPS, Group("Held out", "", MeasureConfig)),
    body="experiments.benchmarks.held_out:run",
    topics={
        "cold_items": "experiments.benchmarks.cold_items:measure",
        "fold_ins": "experiments.benchmarks.fold_ins:measure",
    },
    variations="experiments.benchmarks.held_out:variations",
    ignores=frozenset({STUDENT_START, "export_recbole", "log_to", "refit"}),
    reads="experiments.benchmarks.held_out:reads",
)
