"""The students' stage: every variant with every seed, the same loop, budget and stopping."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from bridge.score_sources import Source, permuted
from bridge.teacher_bank import TeacherBank
from experiments.cli.console import Reporter
from experiments.cli.settings import Settings
from experiments.stages.data import second_domain
from experiments.stages.metrics_log import MetricsLog, flatten, open_log
from experiments.stages.teachers import ReadyTeacher
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import append_json_line
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import METHODS, default_weights
from prmkd_jax.distill.controls import item_permutation
from prmkd_jax.evaluate.metrics import SELECTION_METRIC
from prmkd_jax.students.facts import Facts, make_facts
from prmkd_jax.students.registry import MOST_SOFTMAX_ITEMS, result_name, window, with_loss
from prmkd_jax.students.starts import ItemStart
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.closed import teachers_best
from prmkd_jax.train.loop import fit
from prmkd_jax.train.objective import loss_of
from prmkd_jax.train.processes import the_first_says, writes
from prmkd_jax.train.refit import Refitted, refit, refit_run
from prmkd_jax.train.rows import check_lazy
from prmkd_jax.train.run import Fitted, Params, Run
from prmkd_jax.train.stored import MOST_BFLOAT16, MOST_FLOAT32, stored_dtype

Log = Callable[[dict[str, object]], None]
Watch = Callable[[dict[str, Any]], None]
"""Told every epoch's record; what it raises ends the training."""


def unwatched(record: Mapping[str, object]) -> None:
    """Lets every training end by itself."""


@dataclasses.dataclass(frozen=True)
class TrainedStudent:
    """One trained student.

    Attributes:
        seed: the seed of the training.
        fitted: training result.
        refitted: the student trained on the validation interactions too; None without `--refit`.
        threshold: epsilon of the consistency rule; infinite for the plain student.
    """

    seed: int
    fitted: Fitted
    threshold: float
    refitted: Refitted | None = None

    @property
    def served(self) -> Fitted | Refitted:
        """What is tested and exported."""
        return self.refitted or self.fitted


@dataclasses.dataclass(frozen=True)
class Training:
    """What a student is trained with, whatever its seed.

    Attributes:
        task: data and split.
        facts: the part of it that the student may know.
        settings: the run's settings.
        bank: the teachers; None trains the student alone.
        start: parameters to begin with; None draws them from the seed.
        items: the vectors that the item tables begin from; None leaves them as drawn.
        flags: every flag's value, for the tool of `--log_to`.
        rank_test: False where the run only serves to choose a setting.
    """

    task: Task
    facts: Facts
    settings: Settings
    bank: TeacherBank | None
    start: Params | None = None
    items: ItemStart | None = None
    flags: Mapping[str, object] = dataclasses.field(default_factory=dict)
    rank_test: bool = True

    @functools.cached_property
    def best_items(self) -> Int32[np.ndarray, "N k"] | None:
        """The teachers' best items of each instance, once for all seeds; None where no one asks."""
        if self.bank is None or self.settings.distill.negatives != "closed":
            return None
        seed = self.settings.run.seeds[0]
        run = plain_run(self.task, self.facts, self.settings, seed, Path())
        run = dataclasses.replace(run, distill=self.settings.distill, teachers=self.bank)
        return teachers_best(run)


@dataclasses.dataclass(frozen=True)
class RunPlace:
    """Where a run leaves its files.

    Attributes:
        folder: the record, the ranks and the seconds.
        log: file of JSON lines.
        states: training states, a folder a seed.
        students: exported students, a folder a seed; None exports none.
        told: further fields of the cards besides the record, as JSON content.
        shared: whether other commands use the folder too: it is locked while it is written, and
            the states of a finished seed are removed.
    """

    folder: Path
    log: Path
    states: Path
    students: Path | None = None
    told: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shared: bool = False


def logger(path: Path) -> Log:
    """Adds events to a file of JSON lines, each with the time."""

    def log(event: dict[str, object]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        append_json_line(path, {"time": time.time(), **event})

    return log


def make_bank(
    teachers: Sequence[ReadyTeacher], settings: Settings, num_items: int
) -> TeacherBank | None:
    """What the teachers know, and their default weights; None without teachers."""
    if not teachers:
        return None
    config = settings.distill
    strengths = [teacher.card["validation"][SELECTION_METRIC] for teacher in teachers]
    sources = teaching(teachers, settings, num_items)
    return TeacherBank(sources, default_weights(config, strengths), settings.run.teacher_scores)


def teaching(teachers: Sequence[ReadyTeacher], settings: Settings, num_items: int) -> list[Source]:
    """The teachers as the student meets them: under `--method=permuted` with other items' scores.

    Args:
        teachers: the teachers in the run's order, by which each has its permutation.
        settings: the method, and the permutations' seed.
        num_items: size of the catalogue.
    """
    sources = [teacher.source for teacher in teachers]
    if not METHODS[settings.distill.method].permuted:
        return sources
    seed = settings.distill.permutation_seed
    return [
        permuted(source, item_permutation(num_items, k, seed)) for k, source in enumerate(sources)
    ]


def student_facts(task: Task, settings: Settings) -> Facts:
    """What the student may know of the task; made once for all seeds.

    Raises:
        UserError: as `second_domain` and `check_lazy`.
    """
    student = with_loss(settings.student, task.dataset.num_items)
    check_lazy(student, settings.train, settings.distill if settings.run.teachers else None)
    longest = window(student, settings.data.max_seq_len)
    return make_facts(task, longest, second_domain(settings, task.dataset))


def check_loss(task: Task, facts: Facts, settings: Settings, *, rank_test: bool = True) -> None:
    """Finds what in the data would stop `--loss` later, in training or in its refit.

    Raises:
        UserError: a user leaves no item to be drawn as the negative.
    """
    seed = settings.run.seeds[0]
    run = plain_run(task, facts, settings, seed, Path(run_name(settings, seed)))
    again = settings.train.refit and rank_test
    for each in (run, refit_run(run, 0)) if again else (run,):
        loss_of(each.student).prepare(each.task, each.facts)


def plain_run(task: Task, facts: Facts, settings: Settings, seed: int, folder: Path) -> Run:
    """The run of the student that is trained alone; it goes on from the newest state.

    Where no `--loss` is given, the number of items decides (`with_loss`).
    """
    return Run(
        task=task,
        facts=facts,
        student=with_loss(settings.student, facts.num_items),
        train=settings.train,
        seed=seed,
        folder=folder,
        resume=True,
    )


def distilled_run(run: Run, training: Training) -> Run:
    """The plain run with the teachers, and with what is measured of them before it begins."""
    run = dataclasses.replace(
        run,
        distill=training.settings.distill,
        teachers=training.bank,
        best_items=training.best_items,
    )
    return dataclasses.replace(run, threshold=the_first_says(calibrate_threshold(run)))


def run_name(settings: Settings, seed: int) -> str:
    """The name of one training in the log, and of its folders."""
    variant = settings.distill.method if settings.run.teachers else "base"
    return f"{result_name(settings.student)}-{variant}-seed{seed}"


def train_student(
    training: Training,
    seed: int,
    place: RunPlace,
    reporter: Reporter,
    log: Log,
    watch: Watch = unwatched,
) -> TrainedStudent:
    """Trains one student, distilled if there is a bank; goes on from its folder's newest state.

    Args:
        training: the data, teachers and settings of the run, alike for every seed.
        seed: the student's.
        place: folders of states and metrics.
        reporter: shows progress.
        log: takes one event an epoch.
        watch: told every epoch before it is kept.

    Raises:
        UserError: training diverged.
    """
    settings = training.settings
    name = run_name(settings, seed)
    run = dataclasses.replace(
        plain_run(training.task, training.facts, settings, seed, place.states / name),
        start=training.start,
        item_start=training.items,
        rank_test=training.rank_test,
    )
    if training.bank is not None:
        run = distilled_run(run, training)
    if run.student != settings.student:
        reporter.say(_chosen_loss(name, run))
    if run.distill is not None and run.distill.negatives == "catalogue":
        reporter.say(f"{name}: {_stored(run)}")
    tool = settings.run.log_to if writes() else ""
    metrics = open_log(tool, place.log.parent, name, training.flags)
    try:
        fitted = _fit(run, name, reporter, log, metrics, watch)
    finally:
        metrics.close()
    # What only serves to choose a setting is served to nobody.
    again = run.train.refit and run.rank_test
    refitted = _refit(run, f"{name}-refit", fitted.best_epoch, reporter, log) if again else None
    return TrainedStudent(seed, fitted, run.threshold, refitted)


def _chosen_loss(name: str, run: Run) -> str:
    return (
        f"{name}: --loss={run.student.loss}, for {run.facts.num_items:,} items (softmax is the "
        f"default up to {MOST_SOFTMAX_ITEMS:,})"
    )


def _stored(run: Run) -> str:
    instances, items = len(run.task.split.train), run.facts.num_items
    dtype = stored_dtype(run.distill, run.task)
    what = f"the joint scores of {instances:,} instances and {items:,} items"
    if dtype is None:
        lists = run.distill is not None and METHODS[run.distill.method].lists
        most = MOST_FLOAT32 >> 28 if lists else MOST_BFLOAT16 >> 29
        return f"{what} would take more than {most} GiB, so each step makes its own"
    size = instances * items * dtype.itemsize
    return f"{what} are made in the first epoch and kept, {dtype.name}, {size / 1e6:,.0f} MB"


def _fit(
    run: Run, name: str, reporter: Reporter, log: Log, metrics: MetricsLog, watch: Watch
) -> Fitted:
    with reporter.stage(name, "steps") as stage:

        def on_epoch(record: dict[str, Any]) -> None:
            seconds = record["seconds"]
            reporter.say(
                f"{name}: epoch {record['epoch']:3d}  loss {record['loss']:.4f}  "
                f"validation NDCG@10 {record['validation'][SELECTION_METRIC]:.4f} "
                f"(best at {record['best_epoch']})  "
                f"{seconds['train']:.1f} s + {seconds['evaluate']:.1f} s evaluation"
            )
            log({"stage": "student", "run": name, **record})
            values = {key: value for key, value in record.items() if key != "epoch"}
            metrics.log(record["epoch"], flatten(values))
            watch(record)

        def on_start(scores: dict[str, float]) -> None:
            ndcg = scores[SELECTION_METRIC]
            reporter.say(f"{name}: the start has a validation NDCG@10 of {ndcg:.4f}")
            log({"stage": "student_start", "run": name, "validation": scores})

        with _diverging(name):
            return fit(run, on_step=stage.update, on_epoch=on_epoch, on_start=on_start)


def _refit(run: Run, name: str, epochs: int, reporter: Reporter, log: Log) -> Refitted:
    with reporter.stage(name, "steps") as stage:

        def on_epoch(record: dict[str, Any]) -> None:
            reporter.say(
                f"{name}: epoch {record['epoch']:3d} of {epochs}  loss {record['loss']:.4f}  "
                f"{record['seconds']['train']:.1f} s"
            )
            log({"stage": "student_refit", "run": name, **record})

        with _diverging(name):
            return refit(run, epochs, on_step=stage.update, on_epoch=on_epoch)


@contextlib.contextmanager
def _diverging(name: str) -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise UserError(f"{name}: {error}; a smaller --learning_rate may help") from error
