"""Runs on disk: one variant with all of its seeds, trained once and then read back.

A run's folder holds its record, the test ranks of each seed and the seconds of its epochs. A
shared folder is named by a hash of all that the run depends on (`stages.identity`), so nothing is
trained twice, no other setting's result is read, and a run that was stopped goes on from its last
epoch. Further seeds are added to the record.
"""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from bridge.teacher_bank import TeacherBank
from experiments.cli.console import Reporter
from experiments.runs.follow import announce
from experiments.runs.plan import PlannedRun, training_of
from experiments.stages.environment import describe_environment
from experiments.stages.exports import export, student_file_names
from experiments.stages.identity import first_difference
from experiments.stages.lists import describe_lists
from experiments.stages.record import (
    RECORD,
    Record,
    SeedResult,
    add_seed,
    card_record,
    describe_data,
    describe_split,
    describe_teacher,
    finite_or_none,
    read_record,
    write_record,
)
from experiments.stages.run_folder import remove_states
from experiments.stages.seconds import SECONDS, epoch_seconds, read_seconds, write_seconds
from experiments.stages.starts import require_item_vectors, require_same_files
from experiments.stages.students import (
    RunPlace,
    TrainedStudent,
    Training,
    Watch,
    logger,
    run_name,
    train_student,
    unwatched,
)
from experiments.stages.teachers import ReadyTeacher, prepare_teachers
from prmkd_jax.common.cache import locked
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import is_sealed, writing_sealed
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import METHODS
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.students.registry import label, loss_name, result_name, with_loss
from prmkd_jax.train.refit import refit_folder
from teachers_torch.registry import kind

_LOG = logging.getLogger(__name__)
_RANKS = "ranks-{seed}.npy"
_MASKED = "ranks_masked-{seed}.npy"
"""Earlier versions left none: a run is finished without it too."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run as read back.

    Attributes:
        record: the run's record, with the seeds that were asked for.
        ranks: every test instance's expected rank; None where the test part was not ranked.
        masked: the same with the items of the history taken out, infinite where the target is one
            of them; None also where a seed's was not kept.
        seconds: seed → `train` and `evaluate` of each epoch, as far as known.
        teacher_seconds: teacher → `tune_seconds`, `encode_seconds`, and `test_seconds` if known.
    """

    record: Record
    ranks: Float[np.ndarray, "seeds instances"] | None
    seconds: Mapping[int, Sequence[Mapping[str, float]]]
    teacher_seconds: Mapping[str, Mapping[str, float]]
    masked: Float[np.ndarray, "seeds instances"] | None = None


def ready_teachers(
    plan: PlannedRun, place: RunPlace, reporter: Reporter, ready: dict[str, ReadyTeacher]
) -> None:
    """Tunes and encodes the teachers of a run that isn't finished.

    Args:
        plan: the run.
        place: folders; its log gets the epochs.
        reporter: shows progress.
        ready: key → teacher; those that aren't there yet are added.

    Raises:
        UserError: a teacher lacks its inputs, or `--item_init=teachers` finds none with vectors.
    """
    if not unfinished_seeds(plan, place):
        return
    missing = [found for found in plan.teachers if found.key not in ready]
    made = prepare_teachers(missing, plan.task, plan.settings, reporter, logger(place.log))
    ready.update({found.key: teacher for found, teacher in zip(missing, made, strict=True)})
    # Before the variants that come first are trained.
    require_item_vectors(plan.settings, [ready[found.key] for found in plan.teachers])


def unfinished_seeds(plan: PlannedRun, place: RunPlace) -> list[int]:
    """The seeds that are still to be trained, or whose files were lost.

    Raises:
        UserError: the record or the seconds are damaged, or the record is of another version or
            another run's.
    """
    record = read_record(place.folder)
    if record is not None:
        _require_own(record, plan, place)
    read_seconds(place.folder)  # a seed's are added to them: damage is told before it is trained
    known = set() if record is None else {result.seed for result in record.seeds}
    return [seed for seed in plan.seeds if seed not in known or not _is_whole(plan, place, seed)]


def _require_own(record: Record, plan: PlannedRun, place: RunPlace) -> None:
    # As JSON has it, so that it equals what was read back.
    difference = first_difference(json.loads(json.dumps(plan.identity)), record.identity)
    if difference is not None:
        raise UserError(f"{difference} as in {place.folder / RECORD}, the record that is there")


def never(error: Exception) -> bool:
    """Leaves what every ended run would go on from."""
    return False


def finish_run(
    plan: PlannedRun,
    place: RunPlace,
    ready: Mapping[str, ReadyTeacher],
    reporter: Reporter,
    watch: Watch = unwatched,
    gives_up: Callable[[Exception], bool] = never,
) -> FinishedRun:
    """Trains the seeds of a run that aren't finished, and reads all of them.

    Args:
        plan: the run.
        place: folders of the run.
        ready: the run's teachers by their keys, see `ready_teachers`.
        reporter: shows progress.
        watch: told the epochs of the first seed that was asked for.
        gives_up: whether nobody is to go on with a run that this error has ended.
    """
    waiting = f"{place.folder}: another command trains this run, waiting"
    lock = locked(place.folder / RECORD, lambda: reporter.say(waiting)) if place.shared else None
    with lock or contextlib.nullcontext():
        try:
            _train_missing(plan, place, ready, reporter, watch)
        except Exception as error:
            # Here and not after the lock: whoever waits for it keeps states in the same place.
            if gives_up(error):
                _remove_all_states(plan, place)
            raise
        if place.shared:
            # Here and not after each seed: a kill may have come between its record and this.
            _remove_all_states(plan, place)
    return read_run(plan, place)


def _train_missing(
    plan: PlannedRun,
    place: RunPlace,
    ready: Mapping[str, ReadyTeacher],
    reporter: Reporter,
    watch: Watch,
) -> None:
    """Trains the seeds that aren't finished."""
    missing = unfinished_seeds(plan, place)
    if not missing:
        return
    teachers = [ready[found.key] for found in plan.teachers]
    training = training_of(plan, teachers, reporter)
    require_same_files(plan.settings, plan.task, plan.identity.get("item_init", {}))
    for seed in missing:
        _tell_damage(_ranks_file(place, seed))
        watching = watch if seed == plan.seeds[0] else unwatched
        _train(plan, place, seed, teachers, training, reporter, watching)


def _remove_all_states(plan: PlannedRun, place: RunPlace) -> None:
    """Removes what a run would go on from: it is finished, or given up."""
    for seed in plan.seeds:
        states = place.states / run_name(plan.settings, seed)
        remove_states(states)
        remove_states(refit_folder(states))
    remove_states(place.states)


def read_run(plan: PlannedRun, place: RunPlace) -> FinishedRun:
    """Reads a finished run.

    Raises:
        UserError: its record is missing, damaged or of another version.
    """
    record = read_record(place.folder)
    if record is None:
        raise UserError(f"{place.folder}: found no record, expected that of a finished run")
    ranks = masked = None
    if plan.rank_test:
        ranks = np.stack([np.load(_ranks_file(place, seed)) for seed in plan.seeds])
        kept = [place.folder / _MASKED.format(seed=seed) for seed in plan.seeds]
        if all(is_sealed(path) for path in kept):
            masked = np.stack([np.load(path) for path in kept])
        elif damaged := [path for path in kept if path.exists() and not is_sealed(path)]:
            _LOG.warning("%s: found it damaged; no test with seen items masked", damaged[0])
    timing = read_seconds(place.folder)
    seconds = {int(seed): epochs for seed, epochs in timing.get("seeds", {}).items()}
    teachers = timing.get("teachers", {})
    return FinishedRun(record.of_seeds(plan.seeds), ranks, seconds, teachers, masked)


def _train(
    plan: PlannedRun,
    place: RunPlace,
    seed: int,
    teachers: Sequence[ReadyTeacher],
    training: Training,
    reporter: Reporter,
    watch: Watch,
) -> None:
    """Trains one seed and writes all that it leaves, the record last."""
    announce(plan, seed)
    trained = train_student(training, seed, place, reporter, logger(place.log), watch)
    place.folder.mkdir(parents=True, exist_ok=True)
    served = trained.served
    if served.test is not None:
        masked = place.folder / _MASKED.format(seed=seed)
        for path, ranks in (
            (masked, served.test.unseen_items),
            (_ranks_file(place, seed), served.test.all_items),
        ):
            with writing_sealed(path) as partial, partial.open("wb") as stream:
                np.save(stream, ranks)
    result = describe_seed(trained, plan.task)
    record = _record(plan, teachers, training.bank, trained.fitted.parameters, result)
    if place.students is not None:
        keys = {found.name: found.key for found in plan.teachers}
        told = {**card_record(record), "teacher_keys": keys, **place.told}
        folder = place.students / run_name(plan.settings, seed)
        facts = plan.facts if trained.refitted is None else trained.refitted.facts
        export(folder, served.params, plan.settings, plan.task, facts, plan.start, told)
    epochs = epoch_seconds(place.log, run_name(plan.settings, seed))
    cards = {each.source.name: each.card for each in teachers}
    write_seconds(place.folder, seed, epochs, cards)
    write_record(place.folder, add_seed(record, read_record(place.folder)))


def describe_seed(trained: TrainedStudent, task: Task) -> SeedResult:
    """One seed's part of the record."""
    fitted, test, lists = trained.fitted, trained.served.test, trained.served.lists
    before = None if trained.refitted is None else fitted.test
    described = None if test is None or lists is None else describe_lists(task, lists, test)
    return SeedResult(
        seed=trained.seed,
        validation=ranking_metrics(fitted.validation.all_items),
        test=None if test is None else ranking_metrics(test.all_items),
        test_masked=None if test is None else ranking_metrics(test.unseen_items),
        test_before_refit=None if before is None else ranking_metrics(before.all_items),
        best_epoch=fitted.best_epoch,
        epochs=len(fitted.history),
        threshold=finite_or_none(trained.threshold),
        history=fitted.history,
        lists=None if described is None else described.together,
        segment_lists=None if described is None else described.segments,
    )


def _record(
    plan: PlannedRun,
    teachers: Sequence[ReadyTeacher],
    bank: TeacherBank | None,
    parameters: int,
    result: SeedResult,
) -> Record:
    settings = plan.settings
    method = settings.distill.method
    return Record(
        identity=plan.identity,
        student={
            "name": result_name(settings.student),
            "label": label(settings.student),
            "loss": loss_name(with_loss(settings.student, plan.facts.num_items)),
        },
        method=None if bank is None else {"name": method, "label": METHODS[method].label},
        data=describe_data(plan.task),
        split=describe_split(plan.task, settings),
        environment=describe_environment(),
        settings=plan.flags,
        teachers={
            each.source.name: describe_teacher(kind(each.source.name).label, each.card)
            for each in teachers
        },
        teacher_weights=None
        if bank is None
        else {
            name: float(weight)
            for name, weight in zip(bank.names, bank.default_weights, strict=True)
        },
        parameters=parameters,
        seeds=(result,),
    )


def run_files(plan: PlannedRun) -> list[str]:
    """The files that a finished run leaves in its folder."""
    ranks = [_RANKS.format(seed=seed) for seed in plan.seeds] if plan.rank_test else []
    return [RECORD, SECONDS, *ranks]


def masked_files(plan: PlannedRun) -> list[str]:
    """The files that a finished run of this version leaves besides."""
    return [_MASKED.format(seed=seed) for seed in plan.seeds] if plan.rank_test else []


def _tell_damage(ranks: Path) -> None:
    """Told where it is made again: what is missing is looked for more than once."""
    if ranks.exists() and not is_sealed(ranks):
        _LOG.warning("%s: found it damaged; it is made again", ranks)


def _is_whole(plan: PlannedRun, place: RunPlace, seed: int) -> bool:
    """Whether all is there, and its ranks as written, that a seed leaves beside its record."""
    ranks = _ranks_file(place, seed)
    if plan.rank_test and not is_sealed(ranks):
        return False
    if place.students is None:
        return True
    folder = place.students / run_name(plan.settings, seed)
    return all((folder / name).is_file() for name in student_file_names(plan.settings.run))


def _ranks_file(place: RunPlace, seed: int) -> Path:
    return place.folder / _RANKS.format(seed=seed)
