"""The command `export`."""

from experiments.cli.command import Command
from prmkd_jax.common.options import Group
from prmkd_jax.serve.config import ExportConfig

COMMAND = Command(
    name="export",
    summary="Turn an exported student into StableHLO, ONNX and vectors, with a card and digests.",
    groups=(Group("Export", "", ExportConfig),),
    body="experiments.stages.artifact:run",
    interrupted="interrupted; nothing was written",
)
