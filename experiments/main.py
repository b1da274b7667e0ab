"""python -m experiments.main --flagfile=scientific.cfg: a whole study in one command."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.runtime import settle
from experiments.cli.flags import parse, run_command
from experiments.cli.settings import GROUPS, ignored_flags, settings_from


def main(argv: Sequence[str]) -> None:
    """Reads the flags, settles the frameworks' memory and threads, runs the pipeline."""
    parsed = parse(argv, GROUPS)
    settings = settings_from(parsed.configs)
    runtime = settle(compilation_cache=Path(settings.run.cache_dir) / "jax")
    # Only now: what settle() sets is read when these import torch and jax.
    from experiments.cli.console import Reporter
    from experiments.stages.pipeline import run_pipeline

    reporter = Reporter()
    for warning in ignored_flags(settings, parsed.explicit):
        reporter.warn(warning)
    if settings.run.teachers and settings.distill.method != "prmkd":
        reporter.warn(
            f"--method={settings.distill.method} stands under PRM-KD's name in the tables here; "
            "experiments.studies.rivals names each"
        )
    try:
        run_pipeline(settings, parsed.configs, reporter, runtime.lines())
    except KeyboardInterrupt:
        reporter.say("interrupted; the same command goes on from here")
        sys.exit(130)


if __name__ == "__main__":
    run_command(main)
