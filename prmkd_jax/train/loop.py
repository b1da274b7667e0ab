"""The one training loop: the plain and the distilled student go through the same lines."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from prmkd_jax.data.batches import (
    Batch,
    Columns,
    TrainingBatches,
    catalogue_columns,
    in_batch_columns,
    popularity_groups,
)
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import METHODS, DistillConfig
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables
from prmkd_jax.evaluate.evaluator import Evaluator, UserRanks
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.ops.negatives import Popularity, Seen
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts, make_facts
from prmkd_jax.students.registry import about
from prmkd_jax.students.student import create_student, served_parameters
from prmkd_jax.train.checkpoint import load_checkpoint, save_checkpoint
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.objective import known_items
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.sharding import make_mesh, place, replicate
from prmkd_jax.train.step import (
    DistillInput,
    StepMetrics,
    TrainState,
    init_state,
    make_train_step,
)

SELECTION_METRIC = "NDCG@10"

# Steps that may wait in the device's queue: enough to hide the host's work, few enough
# that their inputs don't pile up in memory.
_IN_FLIGHT = 4


class TeacherSource(Protocol):
    """Where the teachers' scores come from (`bridge.teacher_bank` is one).

    Attributes:
        names: of the K teachers.
        default_weights: w_k, summing to 1.
    """

    names: tuple[str, ...]
    default_weights: np.ndarray

    def for_batch(self, batch: Batch, candidates: np.ndarray) -> TeacherTables | TeacherScores:
        """The tables that stay on the device, or this batch's scores."""
        ...


@dataclasses.dataclass(frozen=True)
class Run:
    """One student to be trained: which, on what, how.

    Attributes:
        dataset: the data.
        split: its parts.
        max_seq_len: longest prefix seen.
        student: which student.
        train: how it is trained.
        seed: of initialisation, batches and dropout.
        distill: None for the plain student.
        teachers: None for the plain student.
        threshold: epsilon, calibrated beforehand.
        folder: where checkpoints go.
        start: parameters to begin with; None draws them from the seed.
        resume: continue from the folder's newest checkpoint.
        rank_test: rank the test instances at the end; a run that only serves to choose a
            setting must not.
        second_domain: a data set that the student learns from besides.
    """

    dataset: Dataset
    split: Split
    max_seq_len: int
    student: StudentConfig
    train: TrainConfig
    seed: int
    folder: Path
    start: dict[str, Any] | None = None
    distill: DistillConfig | None = None
    teachers: TeacherSource | None = None
    threshold: float = float("inf")
    resume: bool = False
    rank_test: bool = True
    second_domain: Dataset | None = None

    def __post_init__(self):
        if (self.distill is None) != (self.teachers is None):
            raise ValueError("a run has both teachers and a distillation, or neither")

    @property
    def task(self) -> Task:
        """Data set and split."""
        return Task(self.dataset, self.split)

    @cached_property
    def facts(self) -> Facts:
        """What the student may know of its data."""
        return make_facts(self.task, self.max_seq_len, self.second_domain)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained student at its best validation epoch.

    Attributes:
        params: its parameters.
        validation: ranks of the validation instances.
        test: ranks of the test instances, computed once; None if not asked for.
        history: one record an epoch.
        best_epoch: the epoch that was kept, counted from 1; 0 is the start.
        parameters: how many numbers of `params` serving needs.
        train_seconds: wall-clock time of all training epochs, compilation included.
        evaluate_seconds: wall-clock time of all validations.
    """

    params: dict[str, Any]
    validation: UserRanks
    test: UserRanks | None
    history: list[dict[str, Any]]
    best_epoch: int
    parameters: int
    train_seconds: float
    evaluate_seconds: float


@dataclasses.dataclass
class _Progress:
    """What a resumed run needs beside the arrays, and the time it has taken so far."""

    epoch: int = 0
    best_epoch: int = 0
    best: float = -1.0
    finished: bool = False
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def fit(
    run: Run,
    on_step: Callable[[int, int], None] = lambda step, steps: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda record: None,
    on_start: Callable[[dict[str, float]], None] = lambda scores: None,
) -> Fitted:
    """Trains until validation NDCG@10 has not risen for `patience` epochs.

    The best epoch's parameters are kept, on validation, or those of the start where no epoch
    betters it; the test instances are ranked once with them. A checkpoint is written after an
    epoch, at most every `checkpoint_seconds`.

    Args:
        run: what to train.
        on_step: called with (step of the epoch, about how many there are).
        on_epoch: called with the epoch's record.
        on_start: called with the validation metrics of a given start.
    """
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    batches = training_batches(run)
    mesh = make_mesh(math.gcd(batches.rows, run.train.batch_size))
    state = replicate(mesh, init_state(params, optimizer, run.seed))
    best_params, progress = jax.tree.map(jnp.copy, state.params), _Progress()
    if run.resume and (saved := load_checkpoint(run.folder, (state, best_params))):
        (state, best_params), progress = replicate(mesh, saved[0]), _Progress(**saved[1])
    step = make_train_step(graphdef, optimizer, run.distill, run.student)
    known = replicate(mesh, drawing_input(run))
    validate = make_evaluator(run, graphdef, run.split.validation)
    if run.start is not None and progress.epoch == 0:
        scores = ranking_metrics(validate(state.params).all_items)
        progress.best = scores[SELECTION_METRIC]
        on_start(scores)
    saved_at = time.perf_counter()
    while not progress.finished:
        started = time.perf_counter()
        inputs = (
            (*place(mesh, *each), known)
            for each in distill_inputs(run, batches.epoch(progress.epoch))
        )
        state, metrics = _run_epoch(state, step, inputs, batches.steps_about, on_step)
        trained = time.perf_counter()
        scores = ranking_metrics(validate(state.params).all_items)
        evaluated = time.perf_counter()
        progress.epoch += 1
        progress.train_seconds += trained - started
        progress.evaluate_seconds += evaluated - trained
        if scores[SELECTION_METRIC] > progress.best:
            progress.best, progress.best_epoch = scores[SELECTION_METRIC], progress.epoch
            best_params = jax.tree.map(jnp.copy, state.params)
        record = {"epoch": progress.epoch, **_summary(metrics, run), "validation": scores}
        progress.history.append(record)
        stale = progress.epoch - progress.best_epoch
        progress.finished = stale >= run.train.patience or progress.epoch >= run.train.max_epochs
        # Writing one takes as long as a short epoch.
        if progress.finished or time.perf_counter() - saved_at >= run.train.checkpoint_seconds:
            contents = (state, best_params), dataclasses.asdict(progress)
            save_checkpoint(run.folder, progress.epoch, *contents)
            saved_at = time.perf_counter()
        seconds = {"train": trained - started, "evaluate": evaluated - trained}
        on_epoch({**record, "best_epoch": progress.best_epoch, "seconds": seconds})
    return Fitted(
        params=best_params,
        validation=validate(best_params),
        test=make_evaluator(run, graphdef, run.split.test)(best_params) if run.rank_test else None,
        history=progress.history,
        best_epoch=progress.best_epoch,
        parameters=served_parameters(run.student.student, best_params),
        train_seconds=progress.train_seconds,
        evaluate_seconds=progress.evaluate_seconds,
    )


def fresh_student(run: Run) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The run's student before its first step: its structure and its parameters."""
    graphdef, state = create_student(run.student, run.facts, run.seed)
    if run.start is None:
        return graphdef, nnx.to_pure_dict(state)
    # A copy: the first step writes over what it is given.
    return graphdef, jax.tree.map(jnp.array, run.start)


def drawing_input(run: Run) -> Popularity | Seen | None:
    """What a step knows of the training part when its loss draws items."""
    return known_items(run.student, run.facts, run.task)


def training_batches(run: Run) -> TrainingBatches:
    """The batches that a run trains on."""
    return TrainingBatches(
        run.dataset.interactions,
        run.split,
        run.max_seq_len,
        run.train.batch_size,
        run.seed,
        about(run.student.student).own_slot,
    )


def distill_inputs(
    run: Run, batches: Iterable[Batch]
) -> Iterator[tuple[Batch, DistillInput | None]]:
    """Adds to each batch what a distilled step needs; None for the plain student."""
    config, teachers = run.distill, run.teachers
    if config is None or teachers is None:
        yield from ((batch, None) for batch in batches)
        return
    groups = None
    if METHODS[config.method].loss == "unkd":
        groups = jnp.asarray(popularity_groups(run.dataset, run.split, config.unkd_groups))
    for batch in batches:
        columns = _columns(run, config, batch)
        known = _known_to_teachers(run, config, batch)
        yield (
            batch,
            DistillInput(
                columns,
                jnp.asarray(known.instance_ids),
                teachers.for_batch(known, columns.candidates),
                jnp.asarray(teachers.default_weights, jnp.float32),
                jnp.asarray(run.threshold, jnp.float32),
                groups,
            ),
        )


def _known_to_teachers(run: Run, config: DistillConfig, batch: Batch) -> Batch:
    """The batch with the instances whose prefixes the teachers are to have read.

    After the whole training part comes the validation instance, whose prefix it is. A user too
    short for one keeps the instance that is asked.
    """
    if config.teacher_history == "prefix":
        return batch
    histories = run.dataset.interactions
    users = histories.users[batch.instance_ids]
    end = run.split.train_end[users]
    whole = np.where(batch.real & (end < histories.indptr[users + 1]), end, batch.instance_ids)
    return batch._replace(instance_ids=whole.astype(np.int32))


def _columns(run: Run, config: DistillConfig, batch: Batch) -> Columns:
    histories, end, masked = run.dataset.interactions, run.split.train_end, config.mask_history
    if config.negatives == "catalogue":
        items = run.dataset.num_items
        return catalogue_columns(histories, end, batch, items, mask_history=masked)
    deduplicate = config.deduplicate_columns
    return in_batch_columns(histories, end, batch, mask_history=masked, deduplicate=deduplicate)


def _run_epoch(
    state: TrainState,
    step: Callable,
    inputs: Iterator[tuple],
    steps: int,
    on_step: Callable[[int, int], None],
) -> tuple[TrainState, list[StepMetrics]]:
    metrics: list[StepMetrics] = []
    for number, each in enumerate(inputs, start=1):
        state, measured = step(state, *each)
        metrics.append(measured)
        if number > _IN_FLIGHT:
            metrics[number - _IN_FLIGHT].loss.block_until_ready()
        on_step(number, steps)
    return state, jax.device_get(metrics)


def make_evaluator(run: Run, graphdef: nnx.GraphDef, instance_ids: np.ndarray) -> Evaluator:
    """What ranks these instances under the run's student."""
    return Evaluator(
        graphdef,
        run.dataset,
        instance_ids,
        run.max_seq_len,
        run.train.batch_size,
        run.train.eval_batch_size,
        own_slot=about(run.student.student).own_slot,
    )


def _summary(metrics: list[StepMetrics], run: Run) -> dict[str, Any]:
    """Means over the epoch's rows, as JSON values."""
    rows = np.array([m.rows for m in metrics], dtype=float)

    def mean(values: list) -> np.ndarray:
        return np.average(np.asarray(values, dtype=float), axis=0, weights=rows)

    summary: dict[str, Any] = {
        name: float(mean([getattr(m, name) for m in metrics]))
        for name in ("loss", "cross_entropy", "distillation", "gradient_norm")
    }
    if run.teachers is not None and metrics[0].teachers is not None:
        fields = metrics[0].teachers._fields
        by_field = {f: mean([getattr(m.teachers, f) for m in metrics]) for f in fields}
        summary["teachers"] = {
            name: {field: float(values[k]) for field, values in by_field.items()}
            for k, name in enumerate(run.teachers.names)
        }
    return summary
