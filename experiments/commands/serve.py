"""The command `serve`."""

from experiments.cli.command import Command
from prmkd_jax.common.options import Group
from prmkd_jax.serve.http.config import ServeConfig

COMMAND = Command(
    name="serve",
    summary="Serve an exported student's recommendations over HTTP, with a page to try it.",
    groups=(Group("Serve", "", ServeConfig),),
    body="experiments.stages.serve:run",
    interrupted="stopped",
)
