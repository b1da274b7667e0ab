"""The command `load`."""

from experiments.cli.command import Command
from experiments.cli.options import LoadConfig
from prmkd_jax.common.options import Group

COMMAND = Command(
    name="load",
    summary="Measure the HTTP service on this machine: speed, hostile requests, reloads, memory.",
    groups=(Group("Load", "", LoadConfig),),
    body="experiments.benchmarks.serve_load:run",
    interrupted="interrupted; the same command begins again",
    computes=False,
)
