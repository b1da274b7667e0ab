"""The command `search`."""

from experiments.cli.command import Command
from experiments.cli.options import SearchConfig
from experiments.cli.settings import GROUPS
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="search",
    summary="Try combinations of settings and compare them on validation.",
    groups=(*GROUPS, Group("Search", "", SearchConfig)),
    body="experiments.runs.search:run",
    variations="experiments.runs.search:variations",
)
