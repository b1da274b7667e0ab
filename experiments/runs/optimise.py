"""A search by Optuna: settings drawn where earlier ones did well, and stopped early where not.

What is drawn depends on the seed, on how many trials are finished and on what they gave, and on
nothing else: a search that was stopped goes on as if it had not been.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from experiments.runs.space import Axis
from prmkd_jax.common.cache import locked
from prmkd_jax.common.digests import content_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import writing
from prmkd_jax.common.options import is_number
from prmkd_jax.common.reading import open_regular
from prmkd_jax.evaluate.metrics import SELECTION_METRIC

if TYPE_CHECKING:
    import optuna

STUDY = "search"
ROW = "row"
"""Where the journal has what a trial gave."""
ROW_DIGEST = "row_digest"
"""Where it has the SHA-256 of that; journals of earlier versions have none."""
STOPPED = {"early": "stopped early", "diverged": "diverged", "impossible": "can't be"}
"""Why a drawn trial has no result of its own."""
UNJUDGED_TRIALS = 5
"""Finished trials before one can be stopped early."""
UNJUDGED_EPOCHS = 3
"""Epochs of every trial before that."""

Row = dict[str, Any]
"""What a trial gave, as JSON."""
Watch = Callable[[int, float], None]
"""Told an epoch and its score; raises `Stopped` where the trial is to end."""


class Stopped(Exception):
    """A trial that is no better than the median of the others at its epoch."""


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        space: the settings.
        trials: how many are finished in the end, the stopped ones too.
        seed: seed of the draws.
        journal: the file that remembers.
        say: receives a line of text for each trial.
    """

    space: Sequence[Axis]
    trials: int
    seed: int
    journal: Path
    say: Callable[[str], None]


def optimise(search: Search, attempt: Callable[[dict[str, str], Watch], Row]) -> list[Row]:
    """Makes the trials that are missing, and gives the rows of all.

    Args:
        search: the axes to be searched, and how.
        attempt: makes one trial of a setting and tells `Watch` of each epoch. Its row has the best
            epoch's metrics as `validation`, and may have the scores of all as `epochs`; or, of one
            that `Watch` or a diverging training stopped, why as `stopped`.

    Raises:
        UserError: Optuna isn't installed, or the journal is damaged.
    """
    waiting = f"{search.journal}: another command makes this search, waiting"
    with locked(search.journal, lambda: search.say(waiting)):
        study = _open(search)
        _rows(search, study)  # a damaged one is told before further trials are made
        while (done := len(_finished(study))) < search.trials:
            _next(search, study, done, attempt)
        return _rows(search, study)[: search.trials]


def require_optuna() -> None:
    """Looks whether Optuna is there.

    Raises:
        UserError: it isn't.
    """
    try:
        import optuna
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "optuna":
            raise
        raise UserError(
            "--space: found no package optuna, expected pip install 'prmkd-jax[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _next(
    search: Search,
    study: "optuna.Study",
    done: int,
    attempt: Callable[[dict[str, str], Watch], Row],
) -> None:
    """Makes one trial; the one that a kill ended is drawn again, and so goes on."""
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState

    for killed in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(killed.number, state=TrialState.FAIL)
    # A sampler of its own for each trial: what is drawn doesn't hang on where a search began.
    (seed,) = np.random.SeedSequence([search.seed, done]).generate_state(1)
    study.sampler = TPESampler(seed=int(seed))
    trial = study.ask()
    setting = {axis.name: axis.text(_draw(trial, axis)) for axis in search.space}
    told: dict[int, float] = {}

    def report(epoch: int, score: float) -> None:
        if epoch not in told:
            told[epoch] = score
            trial.report(score, epoch)

    def watch(epoch: int, score: float) -> None:
        report(epoch, score)
        # A training that goes on may repeat epochs which were judged before.
        if epoch == max(told) and trial.should_prune():
            raise Stopped

    # Those killed since a trial was finished: an earlier one of the same setting was judged by
    # fewer others, and has been drawn again itself.
    last = max((one.number for one in _finished(study)), default=-1)
    for killed in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if killed.number > last and killed.params == trial.params:
            for epoch, score in killed.intermediate_values.items():
                report(epoch, score)
    search.say(f"Trial {done + 1} of {search.trials}: {_words(setting)}")
    row = {**attempt(setting, watch), "setting": _words(setting)}
    for epoch, score in row.pop("epochs", {}).items():  # of a run that was finished before
        report(epoch, score)
    if "stopped" in row:
        row |= _so_far(told)
    trial.set_user_attr(ROW, row)
    trial.set_user_attr(ROW_DIGEST, content_digest(row))
    if "stopped" in row:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, row["validation"][SELECTION_METRIC])


def _so_far(told: Mapping[int, float]) -> Row:
    """The best epoch of a trial that was stopped; nothing where it had none."""
    if not told:
        return {"validation": {}, "best_epoch": None}
    best = max(told, key=lambda epoch: (told[epoch], -epoch))
    return {"validation": {SELECTION_METRIC: told[best]}, "best_epoch": best}


def _draw(trial: "optuna.Trial", axis: Axis) -> float | str:
    if axis.values:
        return trial.suggest_categorical(axis.name, axis.values)
    if axis.whole:
        return trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


def _finished(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """The trials that count, in their order."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)


def _rows(search: Search, study: "optuna.Study") -> list[Row]:
    """What the finished trials gave.

    Raises:
        UserError: one of them isn't as it was written.
    """
    with _readable(search.journal):
        return [_row(trial) for trial in _finished(study)]


def _row(trial: "optuna.trial.FrozenTrial") -> Row:
    """What a finished trial gave.

    Raises:
        ValueError: there is nothing, or something else than was written.
    """
    row = trial.user_attrs.get(ROW)
    if trial.user_attrs.get(ROW_DIGEST) not in (None, content_digest(row)):
        raise ValueError(f"the row of trial {trial.number} differs from its digest")
    if not isinstance(row, dict) or not _is_row(row):
        raise ValueError(f"trial {trial.number} has no row of a trial")
    return row


def _is_row(row: Row) -> bool:
    """Whether a row can be shown: one of an earlier version has no digest."""
    scores, best = row.get("validation"), row.get("best_epoch")
    texts = [row.get(name, "") for name in ("model", "seeds", "setting")]
    return (
        isinstance(scores, dict)
        and all(isinstance(text, str) for text in texts)
        and all(_is_finite(score) for score in scores.values())
        and (best is None or _is_finite(best))
        and row.get("stopped", "early") in list(STOPPED)
    )


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _open(search: Search) -> "optuna.Study":
    """The study in the journal, new or begun.

    Raises:
        UserError: the file is damaged.
    """
    require_optuna()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    pruner = optuna.pruners.MedianPruner(UNJUDGED_TRIALS, UNJUDGED_EPOCHS)
    with _readable(search.journal):
        _cut_unfinished(search.journal)
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(search.journal), cast(Any, _Held()))),
            study_name=STUDY,
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )


class _Held:
    """Optuna's lock of the journal: it is held already, by one that a kill leaves nothing of."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextlib.contextmanager
def _readable(journal: Path) -> Iterator[None]:
    try:
        yield
    except (
        ValueError,
        LookupError,
        TypeError,
        AssertionError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{journal}: damaged ({first_line(error)}), expected Optuna's journal of this search: "
            "delete it; finished trials are kept and not trained again"
        ) from error


def _cut_unfinished(journal: Path) -> None:
    """Takes away a last line that a kill has left without its end: more would be joined to it."""
    if not journal.exists():
        return
    with open_regular(journal) as stream:
        content = stream.read()
    if content and not content.endswith(b"\n"):
        with writing(journal) as partial:
            partial.write_bytes(content[: content.rfind(b"\n") + 1])


def _words(setting: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in setting.items())
