"""The command `study`: a named list of variants, compared with each other."""

from experiments.cli.command import Command
from experiments.cli.flags import Group
from experiments.cli.options import StudyConfig
from experiments.cli.settings import GROUPS

COMMAND = Command(
    name="study",
    summary="Train the variants of a study and compare them: ablation, rivals, sources, students.",
    groups=(*GROUPS, Group("Variants", "", StudyConfig)),
    body="experiments.runs.study:run",
    variations="experiments.runs.study:variations",
    topics={
        name: f"experiments.studies.{name}:STUDY"
        for name in ("ablation", "rivals", "sources", "students")
    },
)
