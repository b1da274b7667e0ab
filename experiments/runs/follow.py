"""What the other processes do where several train together: the trainings, and no file."""

from collections.abc import Mapping, Sequence

import jax

from experiments.cli.console import Reporter
from experiments.runs.plan import PlannedRun, training_of
from experiments.stages.identity import digest
from experiments.stages.students import RunPlace, train_student
from experiments.stages.teachers import prepare_teachers, require_made
from prmkd_jax.common.errors import UserError
from prmkd_jax.train.processes import lead, orders


def announce(plan: PlannedRun, seed: int) -> None:
    """Tells the other processes which seed of which run is trained next."""
    lead({"run": digest(plan.identity), "seed": seed})


def follow(runs: Sequence[tuple[PlannedRun, RunPlace]], reporter: Reporter) -> None:
    """Trains along with the first process, seed by seed as it says.

    The teachers are read from the cache, where the first process has put them.

    Args:
        runs: all that may be trained, and the folders from which states are read.
        reporter: shows progress.

    Raises:
        UserError: the first process trains another run, or its teachers aren't in the cache.
    """
    known = {digest(plan.identity): (plan, place) for plan, place in runs}
    for order in orders():
        if order["run"] not in known:
            raise UserError(
                f"process {jax.process_index()}: found other settings, data or files than the "
                "first process has, expected the same command in all"
            )
        _train(*known[order["run"]], order["seed"], reporter)


def _train(plan: PlannedRun, place: RunPlace, seed: int, reporter: Reporter) -> None:
    require_made(plan.teachers, plan.task, plan.settings)
    teachers = prepare_teachers(plan.teachers, plan.task, plan.settings, reporter, _nothing)
    train_student(training_of(plan, teachers, reporter), seed, place, reporter, _nothing)


def _nothing(event: Mapping[str, object]) -> None:
    """The log is the first process's."""
