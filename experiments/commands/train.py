"""The command `train`, which is also `python -m experiments.main`."""

from experiments.cli.command import Command
from experiments.cli.settings import GROUPS

COMMAND = Command(
    name="train",
    summary="Tune the teachers, train a student alone and with PRM-KD, report both.",
    groups=GROUPS,
    body="experiments.runs.train:run",
    together=True,
)
