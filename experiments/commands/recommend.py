"""The command `recommend`."""

from experiments.cli.command import Command
from prmkd_jax.common.options import Group
from prmkd_jax.serve.config import RecommendConfig

COMMAND = Command(
    name="recommend",
    summary="Recommend items for histories, or items like others, with an exported student.",
    groups=(Group("Recommend", "", RecommendConfig),),
    body="experiments.stages.recommend:run",
)
