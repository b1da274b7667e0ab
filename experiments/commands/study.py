"""The command `study`: a named list of variants, compared with each other."""

from experiments.cli.command import Command
from experiments.cli.options import StudyConfig
from experiments.cli.settings import GROUPS
from prmkd_jax.common.options import Group

STUDIES = (
    "table3",
    "ablation",
    "universality",
    "rivals",
    "sources",
    "sensitivity",
    "curriculum",
    "temporal",
    "students",
)
"""Lists of variants, in `experiments.studies`."""
ANALYSES = {
    "table2": "experiments.runs.table2:run",
    "cold_start": "experiments.runs.cold_start:run",
    "efficiency": "experiments.runs.efficiency:run",
}
"""Studies that train nothing → what does the work."""

COMMAND = Command(
    name="study",
    summary="Make a table or a figure of the paper: train and compare variants, or read runs.",
    groups=(*GROUPS, Group("Variants", "", StudyConfig)),
    body="experiments.runs.study:run",
    variations="experiments.runs.study:variations",
    ignores=frozenset({"method"}),  # variants say what differs from PRM-KD
    topics={**{name: f"experiments.studies.{name}:STUDY" for name in STUDIES}, **ANALYSES},
)
