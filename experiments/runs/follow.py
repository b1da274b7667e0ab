"""What the other processes do where several train together: the trainings, and no file."""

from collections.abc import Mapping, Sequence

import jax

from experiments.cli.console import Reporter
from experiments.runs.plan import PlannedRun
from experiments.stages.identity import digest
from experiments.stages.starts import item_start
from experiments.stages.students import Place, make_bank, train_student
from experiments.stages.teachers import prepare_teachers, require_made
from prmkd_jax.common.errors import UserError
from prmkd_jax.train.processes import lead, orders


def announce(plan: PlannedRun, seed: int) -> None:
    """Tells the other processes which seed of which run is trained next."""
    lead({"run": digest(plan.identity), "seed": seed})


def follow(runs: Sequence[tuple[PlannedRun, Place]], reporter: Reporter) -> None:
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


def _train(plan: PlannedRun, place: Place, seed: int, reporter: Reporter) -> None:
    settings = plan.settings
    require_made(plan.teachers, plan.task, settings)
    teachers = prepare_teachers(plan.teachers, plan.task, settings, reporter, _nothing)
    train_student(
        plan.task,
        plan.facts,
        make_bank(teachers, settings, plan.task.dataset.num_items),
        settings,
        seed,
        place,
        reporter,
        _nothing,
        flags=plan.flags,
        start=None if plan.start is None else plan.start.params,
        items=item_start(settings, plan.task, teachers, reporter),
        rank_test=plan.rank_test,
    )


def _nothing(event: Mapping[str, object]) -> None:
    """The log is the first process's."""
