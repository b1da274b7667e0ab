"""Finished runs on disk: one configuration, one seed, run once and then read back.

A run's folder is named by a hash of all that it depends on (`stages.identity`), so nothing is
run twice, no other setting's result is read, and a run that was stopped goes on from its last
epoch.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from bridge.student_weights import Start
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings, settings_from
from experiments.stages.exports import student_start
from experiments.stages.identity import digest, run_identity
from experiments.stages.pipeline import load_dataset
from experiments.stages.run_folder import remove_states
from experiments.stages.students import Trained, make_bank, run_name, train_students
from experiments.stages.teachers import ReadyTeacher, check_teachers, prepare_teachers
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import append_json_line, write_json
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split, leave_one_out
from prmkd_jax.evaluate.metrics import ranking_metrics

_RESULT, _RANKS, _LOG = "run.json", "ranks.npy", "log.jsonl"


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What is kept of a run.

    Attributes:
        seed: the student's seed.
        validation: its metrics on validation.
        test: its metrics on the test part; None where the run was not to look at it.
        best_epoch: the epoch that was kept, counted from 1; 0 is the start.
        epochs: epochs trained.
        parameters: the student's size.
        threshold: epsilon of the consistency rule; None where it never acts.
        ranks: every user's test rank; None like `test`.
        epoch_seconds: what each epoch's training took, out of the run's log.
    """

    seed: int
    validation: dict[str, float]
    test: dict[str, float] | None
    best_epoch: int
    epochs: int
    parameters: int
    threshold: float | None
    ranks: Float[np.ndarray, " users"] | None
    epoch_seconds: tuple[float, ...]


def finished_runs(
    configs: Sequence[Any], folder: Path, reporter: Reporter, *, rank_test: bool
) -> list[FinishedRun]:
    """A configuration's runs, one a seed; those that aren't there yet are run.

    Args:
        configs: the configuration as parsed, in the order of `GROUPS`.
        folder: where runs lie, each in a folder of its own.
        reporter: where to tell of it.
        rank_test: False where the runs only serve to choose a setting.
    """
    settings = settings_from(tuple(configs))
    dataset = load_dataset(settings)
    split = leave_one_out(dataset.interactions)
    start = student_start(settings, dataset, split)
    common = {**run_identity(configs, settings, dataset, split), "test": rank_test}
    runs, teachers = [], None
    for seed in settings.run.seeds:
        identity = {**common, "seed": seed}
        place = folder / digest(identity)
        if not (place / _RESULT).is_file():
            if teachers is None:
                teachers = ready_teachers(settings, dataset, split, place, reporter)
            run = dataclasses.replace(settings.run, seeds=(seed,))
            one = dataclasses.replace(settings, run=run)
            _run(one, dataset, split, start, teachers, place, reporter, rank_test, identity)
        runs.append(_read(place))
    return runs


def check_runs(several: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """Finds what is wrong with any configuration before the first is run.

    Args:
        several: configurations as parsed.

    Returns:
        What the runs of each depend on.

    Raises:
        UserError: on bad data or inputs; or files are asked for, of which trials leave none.
    """
    identities = []
    checked: set[Path] = set()
    for configs in several:
        settings = settings_from(tuple(configs))
        if settings.run.export_recbole:
            raise UserError(
                "--export_recbole: found True, expected False: only experiments.main writes "
                "students"
            )
        dataset = load_dataset(settings)
        split = leave_one_out(dataset.interactions)
        student_start(settings, dataset, split)
        identity = run_identity(configs, settings, dataset, split)
        identity["settings"]["seeds"] = list(settings.run.seeds)
        identities.append(identity)
        check_teachers(dataset, split, settings, checked)
    return identities


def ready_teachers(
    settings: Settings, dataset: Dataset, split: Split, folder: Path, reporter: Reporter
) -> list[ReadyTeacher]:
    """The configuration's teachers, from the cache or tuned; the folder keeps a log of it."""
    return prepare_teachers(dataset, split, settings, reporter, _log_in(folder))


def _run(
    settings: Settings,
    dataset: Dataset,
    split: Split,
    start: Start | None,
    teachers: list[ReadyTeacher],
    place: Path,
    reporter: Reporter,
    rank_test: bool,
    identity: dict[str, Any],
) -> None:
    bank, checkpoints, log = make_bank(teachers, settings), place / "checkpoints", _log_in(place)
    params = None if start is None else start.params
    (trained,) = train_students(
        dataset,
        split,
        bank,
        settings,
        checkpoints,
        reporter,
        log,
        start=params,
        rank_test=rank_test,
    )
    if trained.fitted.test is not None:
        beside = place / f"part.{_RANKS}"
        np.save(beside, trained.fitted.test.all_items)
        os.replace(beside, place / _RANKS)
    # It comes last: a folder without it is that of a run to be continued.
    write_json(place / _RESULT, {"settings": identity, "result": _describe(trained)})
    remove_states(checkpoints / run_name(settings, trained.seed, distilled=bank is not None))
    remove_states(checkpoints)


def _log_in(folder: Path) -> Callable[[dict[str, Any]], None]:
    folder.mkdir(parents=True, exist_ok=True)
    return functools.partial(append_json_line, folder / _LOG)


def _describe(trained: Trained) -> dict[str, Any]:
    fitted = trained.fitted
    return {
        "seed": trained.seed,
        "validation": ranking_metrics(fitted.validation.all_items),
        "test": None if fitted.test is None else ranking_metrics(fitted.test.all_items),
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "parameters": fitted.parameters,
        # JSON has no infinity.
        "threshold": trained.threshold if np.isfinite(trained.threshold) else None,
    }


def _read(place: Path) -> FinishedRun:
    result = json.loads((place / _RESULT).read_text())["result"]
    ranks = None if result["test"] is None else np.load(place / _RANKS)
    return FinishedRun(**result, ranks=ranks, epoch_seconds=_epoch_seconds(place / _LOG))


def _epoch_seconds(log: Path) -> tuple[float, ...]:
    """The training seconds of every epoch; one that was done again after a kill counts once."""
    events = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    students = [event for event in events if event.get("stage") == "student"]
    taken = {event["epoch"]: event["seconds"]["train"] for event in students}
    return tuple(taken[epoch] for epoch in sorted(taken))
