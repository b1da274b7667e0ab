"""The body of `train`: the whole pipeline."""

from experiments.cli.command import Call
from experiments.stages.pipeline import run_pipeline


def run(call: Call) -> None:
    """Tunes the teachers, trains the student alone and distilled, and reports both."""
    settings = call.settings
    if settings.run.teachers and settings.distill.method != "prmkd":
        call.reporter.warn(
            f"--method={settings.distill.method} has PRM-KD's name in the tables here; the study "
            "rivals names each"
        )
    run_pipeline(settings, call.configs, call.reporter, call.runtime)
