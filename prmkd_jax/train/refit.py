"""A student trained once more before it is served, on the validation interactions too.

Early stopping holds back each user's newest interactions but one. Once it has said for how many
epochs to train, they are training data like the others: what is exported has seen them.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from prmkd_jax.evaluate.evaluator import BestItems, UserRanks
from prmkd_jax.students.facts import Facts, training_edges
from prmkd_jax.students.student import Params
from prmkd_jax.train.closed import teachers_best
from prmkd_jax.train.loop import OnEpoch, OnStep, rank_test, train
from prmkd_jax.train.run import Run


class Refitted(NamedTuple):
    """A student trained on training and validation interactions.

    Attributes:
        params: the student's parameters.
        facts: the facts that the student was made with.
        test: ranks of the test instances, computed once; None if not asked for.
        lists: the best items of the test instances; None like `test`.
        history: a record for each epoch, without validation.
        train_seconds: wall-clock time of all training epochs, compilation included.
    """

    params: Params
    facts: Facts
    test: UserRanks | None
    lists: BestItems | None
    history: list[dict[str, Any]]
    train_seconds: float


def refit(
    run: Run,
    epochs: int,
    on_step: OnStep = lambda step, steps: None,
    on_epoch: OnEpoch = lambda record: None,
) -> Refitted:
    """Trains from the run's own start again, for a number of epochs.

    Start, seed, threshold and the teachers' weights stay; the teachers are not tuned again, and
    have seen the training interactions alone.

    Args:
        run: the training that was ended by early stopping.
        epochs: the epoch that it chose; 0 leaves the start.
        on_step: called with the step of the epoch and about how many there are.
        on_epoch: called with the epoch's record.

    Raises:
        FloatingPointError: a loss or a test score is not finite.
    """
    again = refit_run(run, epochs)
    trained = train(again, on_step, on_epoch)
    progress = trained.progress
    test, lists = rank_test(again, trained)
    seconds = progress.train_seconds
    return Refitted(trained.params, again.facts, test, lists, progress.history, seconds)


def refit_run(run: Run, epochs: int) -> Run:
    """The run that `refit` trains, with checkpoints of its own."""
    task = run.task.with_validation()
    again = dataclasses.replace(
        run,
        task=task,
        facts=dataclasses.replace(run.facts, edges=training_edges(task)),
        folder=refit_folder(run.folder),
        epochs=epochs,
    )
    if run.best_items is None:
        return again
    # The training instances that are new have best items too.
    return dataclasses.replace(again, best_items=teachers_best(again))


def refit_folder(folder: Path) -> Path:
    """Where the checkpoints of a refit are, next to those of its run."""
    return folder.with_name(f"{folder.name}-refit")
