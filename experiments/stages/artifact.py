"""The body of `export`: one folder that production can read without this project."""

from experiments.cli.command import Call
from prmkd_jax.serve.artifact import write_artifact
from prmkd_jax.serve.config import ExportConfig


def run(call: Call) -> None:
    """Writes the artefact, and says what was tried on it."""
    config = call.config(ExportConfig)
    config.require()
    write_artifact(config, call.reporter.say)
