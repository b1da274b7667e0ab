"""The body of `export`: one folder that production can read without this project."""

from experiments.cli.command import Call
from experiments.stages.explain import Explaining, teacher_views
from prmkd_jax.serve.artifact import write_artifact
from prmkd_jax.serve.config import ExportConfig


def run(call: Call) -> None:
    """Writes the artefact, and says what was tried on it."""
    config = call.config(ExportConfig)
    config.require()
    found = teacher_views(config) if config.explain else Explaining([], [], None)
    views, left_out, student = found
    for label in left_out:
        call.reporter.say(f"{label}: not in the explanation, since it gives scores and no vectors")
    for view in views:
        call.reporter.say(
            f"{view.label}: of its own first ten places the estimate finds "
            f"{100 * (view.fidelity or 0.0):.0f} % again"
        )
    write_artifact(config, call.reporter.say, views, student)
