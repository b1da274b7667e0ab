"""The one training loop: the plain and the distilled student go through the same lines."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int64

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.evaluate.evaluator import LISTED, BestItems, Evaluator, UserRanks
from prmkd_jax.evaluate.metrics import SELECTION_METRIC, ranking_metrics
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.shards import MODEL, in_turn
from prmkd_jax.students.student import served_parameters
from prmkd_jax.students.tables import ONE_DEVICE, Divided
from prmkd_jax.train.checkpoint import load_checkpoint, save_checkpoint
from prmkd_jax.train.closed import ClosedColumns, closed_of
from prmkd_jax.train.devices import VARIABLE
from prmkd_jax.train.feed import placed_inputs
from prmkd_jax.train.inputs import (
    Constants,
    Inputs,
    run_constants,
    scheduled,
    training_batches,
)
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.processes import the_first_says, writes
from prmkd_jax.train.rows import lazy_tables
from prmkd_jax.train.run import Fitted, Params, Run, fresh_student
from prmkd_jax.train.sharding import (
    divide,
    make_mesh,
    place_constants,
    place_state,
)
from prmkd_jax.train.step import (
    StepMetrics,
    TrainState,
    TrainStep,
    init_state,
    make_train_step,
    take_steps,
)
from prmkd_jax.train.stored import stored_of

# Calls that may wait in the device's queue: enough to hide the host's work, few enough
# that their inputs don't pile up in memory.
_IN_FLIGHT = 4
# Of the validation users: a seed of its own, since whom a run is judged by must not vary with it.
_SAMPLE_SEED = 18


@dataclasses.dataclass
class _Progress:
    """What a resumed run needs besides the arrays, and the seconds taken so far."""

    epoch: int = 0
    best_epoch: int = 0
    best: float = -1.0
    finished: bool = False
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Trained(NamedTuple):
    """What the loop leaves.

    Attributes:
        graphdef: the student's structure.
        params: the parameters that were kept, complete.
        validate: ranks the validation instances; None after a training without validation.
        progress: epochs, seconds and history.
        divided: the tables that devices share.
    """

    graphdef: nnx.GraphDef
    params: Params
    validate: Evaluator | None
    progress: _Progress
    divided: Divided


OnStep = Callable[[int, int], None]
OnEpoch = Callable[[dict[str, Any]], None]


def fit(
    run: Run,
    on_step: OnStep = lambda step, steps: None,
    on_epoch: OnEpoch = lambda record: None,
    on_start: Callable[[dict[str, float]], None] = lambda scores: None,
) -> Fitted:
    """Trains until validation NDCG@10 has not risen for `patience` epochs.

    The parameters of the best epoch on validation are kept, or those of a given start if no
    epoch is better; the test instances are ranked once with them. Checkpoints are written after
    epochs, at most one every `checkpoint_seconds`.

    Args:
        run: the student, its data and settings.
        on_step: called with the step of the epoch and about how many there are.
        on_epoch: called with the epoch's record.
        on_start: called with the validation metrics of a given start.

    Raises:
        FloatingPointError: a loss, or a validation or test score, is not finite.
    """
    return _fitted(run, train(run, on_step, on_epoch, on_start))


def train(
    run: Run,
    on_step: OnStep = lambda step, steps: None,
    on_epoch: OnEpoch = lambda record: None,
    on_start: Callable[[dict[str, float]], None] = lambda scores: None,
) -> Trained:
    """The loop of `fit`, without the ranking at its end; with `Run.epochs`, without validation."""
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    batches = training_batches(run)
    schedule = scheduled(run, batches)
    mesh = mesh_of(run, batches)
    divided = divide(mesh, params, run.facts)
    state, best_params, progress = _begin(run, init_state(params, optimizer, run.seed), divided)
    step = make_train_step(
        graphdef, optimizer, run.distill, run.student, mesh, lazy_tables(run), divided.tables
    )
    constants = place_constants(mesh, run_constants(run))
    closed = closed_of(run, graphdef, divided)
    stored = stored_of(run)
    validate = None
    if run.epochs is None:
        validate = make_evaluator(run, graphdef, validation_instances(run), divided)
    if validate and run.start is not None and progress.epoch == 0:
        on_start(_judge_start(progress, validate(state.params)))
    saved_at = time.perf_counter()
    while not progress.finished:
        started = time.perf_counter()
        inputs = placed_inputs(run, mesh, schedule.epoch(progress.epoch), closed, stored)
        state, metrics = _run_epoch(
            state, step, inputs, constants, batches.steps_about, on_step, closed
        )
        trained = time.perf_counter()
        scores = _metrics(validate(state.params)) if validate else None
        evaluated = time.perf_counter()
        seconds = {"train": trained - started, "evaluate": evaluated - trained}
        record = _record(metrics, run, progress.epoch + 1, scores)
        if closed is not None:
            record["columns"] = closed.report()
        if _note_epoch(progress, run, record, seconds):
            best_params = jax.tree.map(jnp.copy, state.params)
        # Told before it is kept, so that a kill between the two loses no line of a log.
        on_epoch({**record, "best_epoch": progress.best_epoch, "seconds": seconds})
        # Writing one takes as long as a short epoch.
        due = progress.finished or time.perf_counter() - saved_at >= run.train.checkpoint_seconds
        if the_first_says(due):
            contents = divided.whole((state, best_params))
            if writes():
                save_checkpoint(run.folder, progress.epoch, contents, dataclasses.asdict(progress))
            saved_at = time.perf_counter()
    return Trained(graphdef, divided.whole(best_params), validate, progress, divided)


def mesh_of(run: Run, batches: TrainingBatches) -> Mesh:
    """The devices that a run's batches and tables are divided over.

    Raises:
        UserError: as `make_mesh`; or `--lazy_adam` meets tables whose rows are divided.
    """
    mesh = make_mesh(math.gcd(batches.rows, run.train.batch_size))
    if run.train.lazy_adam and mesh.shape[MODEL] > 1:
        raise UserError(
            f"${VARIABLE}: found {mesh.shape[MODEL]} devices that share the tables' rows, expected "
            "1 with --lazy_adam"
        )
    return mesh


def _begin(run: Run, fresh: TrainState, divided: Divided) -> tuple[TrainState, Params, _Progress]:
    """The state, the best parameters and the progress: fresh, or of the checkpoint.

    Checkpoints hold complete tables, so they move between meshes of other shapes.
    """
    state = place_state(divided, fresh)
    best_params = jax.tree.map(jnp.copy, state.params)
    if run.resume:
        saved = load_checkpoint(run.folder, divided.whole((state, best_params)))
        _require_the_first_ones(run, 0 if saved is None else saved[1]["epoch"])
        if saved is not None:
            state, best_params = place_state(divided, saved[0])
            return state, best_params, _Progress(**saved[1])
    return state, best_params, _Progress(finished=run.epochs == 0)


def _require_the_first_ones(run: Run, epoch: int) -> None:
    """Finds out whether the first process has found the same training state.

    Raises:
        UserError: it has found another one.
    """
    if (expected := the_first_says(epoch)) != epoch:
        raise UserError(
            f"{run.folder}: found a training state of epoch {epoch}, expected that of epoch "
            f"{expected}, which the first process found: all need the same folders"
        )


def _metrics(ranks: UserRanks) -> dict[str, float]:
    """By the first process's, so that all processes stop at the same epoch."""
    return the_first_says(ranking_metrics(ranks.all_items))


def _judge_start(progress: _Progress, ranks: UserRanks) -> dict[str, float]:
    """Notes the metrics of a given start, and returns them."""
    scores = _metrics(ranks)
    progress.best = scores[SELECTION_METRIC]
    return scores


def validation_instances(run: Run) -> Int64[np.ndarray, " instances"]:
    """The instances that early stopping ranks: all, or `validation_users` of them.

    The sample depends on the split alone, so that runs and seeds are compared on the same users.
    """
    instances, wanted = run.task.split.validation, run.train.validation_users
    if wanted is None or wanted >= len(instances):
        return instances
    chosen = np.random.default_rng(_SAMPLE_SEED).permutation(len(instances))[:wanted]
    return instances[np.sort(chosen)]


def make_evaluator(
    run: Run,
    graphdef: nnx.GraphDef,
    instance_ids: Int64[np.ndarray, " instances"],
    divided: Divided = ONE_DEVICE,
) -> Evaluator:
    """Ranks some of the task's instances under the run's student."""
    return Evaluator(
        graphdef,
        run.task.dataset,
        instance_ids,
        run.window,
        run.train.batch_size,
        run.train.eval_batch_size,
        own_slot=run.own_slot,
        divided=divided,
    )


def _run_epoch(
    state: TrainState,
    step: TrainStep,
    inputs: Iterator[Inputs],
    constants: Constants,
    steps: int,
    on_step: OnStep,
    closed: ClosedColumns | None,
) -> tuple[TrainState, list[StepMetrics]]:
    metrics: list[StepMetrics] = []
    taken = 0
    if closed is not None:
        closed.params = state.params
    for number, each in enumerate(inputs, start=1):
        state, measured = in_turn(take_steps(step, state, each, constants))
        if closed is not None:
            closed.params = state.params
        metrics.append(measured)
        if number > _IN_FLIGHT:
            metrics[number - _IN_FLIGHT].loss.block_until_ready()
        taken += each.steps
        on_step(taken, steps)
    return state, [one for call in jax.device_get(metrics) for one in _of_each_step(call)]


def _of_each_step(metrics: StepMetrics) -> list[StepMetrics]:
    """The metrics of a call as those of its steps."""
    if np.ndim(metrics.loss) == 0:
        return [metrics]
    leaves, structure = jax.tree.flatten(metrics)
    by_step = zip(*(map(np.asarray, values) for values in leaves), strict=True)
    return [jax.tree.unflatten(structure, values) for values in by_step]


def _note_epoch(
    progress: _Progress, run: Run, record: dict[str, Any], seconds: dict[str, float]
) -> bool:
    """Adds an epoch to the progress; returns whether its parameters are to be kept."""
    progress.epoch += 1
    progress.train_seconds += seconds["train"]
    progress.evaluate_seconds += seconds["evaluate"]
    progress.history.append(record)
    if run.epochs is not None:
        progress.best_epoch = progress.epoch
        progress.finished = progress.epoch >= run.epochs
        return progress.finished
    score = record["validation"][SELECTION_METRIC]
    better = score > progress.best
    if better:
        progress.best = score
        progress.best_epoch = progress.epoch
    stale = progress.epoch - progress.best_epoch
    progress.finished = stale >= run.train.patience or progress.epoch >= run.train.max_epochs
    return better


def _record(
    metrics: list[StepMetrics], run: Run, epoch: int, validation: dict[str, float] | None
) -> dict[str, Any]:
    """An epoch's record: its number, means over its instances, the validation's metrics if any.

    Raises:
        FloatingPointError: one is not finite.
    """
    instances = [float(step.num_instances) for step in metrics]
    means = {
        name: float(_mean([getattr(step, name) for step in metrics], instances))
        for name in ("loss", "cross_entropy", "distillation", "gradient_norm")
    }
    for name, value in means.items():
        _require_finite(name, value, epoch)
    record: dict[str, Any] = {"epoch": epoch, **means}
    if run.train.curriculum_epochs:
        record["instances"] = int(sum(instances))
    if validation is not None:
        record["validation"] = validation
    counts = [float(step.num_measured) for step in metrics if step.teachers is not None]
    if run.teachers is not None and any(counts):
        measured = [step.teachers for step in metrics if step.teachers is not None]
        by_field = {
            field: _mean([getattr(one, field) for one in measured], counts)
            for field in measured[0]._fields
        }
        record["teachers"] = {
            name: {field: float(values[k]) for field, values in by_field.items()}
            for k, name in enumerate(run.teachers.names)
        }
        for name, measures in record["teachers"].items():
            for field, value in measures.items():
                _require_finite(f"{field} of teacher {name}", value, epoch)
    return record


def _mean(values: list[Array], weights: list[float]) -> np.ndarray:
    """The weighted mean of steps' values."""
    return np.asarray(np.average(np.asarray(values, dtype=float), axis=0, weights=weights))


def _require_finite(name: str, value: float, epoch: int) -> None:
    # At once, not when hours later a record can't hold it.
    if not math.isfinite(value):
        raise FloatingPointError(f"epoch {epoch}: found a {name} of {value}, expected a finite one")


def rank_test(run: Run, trained: Trained) -> tuple[UserRanks, BestItems] | tuple[None, None]:
    """Ranks of the test instances and their best items; None for both if not asked for."""
    if not run.rank_test:
        return None, None
    evaluator = make_evaluator(run, trained.graphdef, run.task.split.test, trained.divided)
    return evaluator.with_best(trained.params, LISTED)


def _fitted(run: Run, trained: Trained) -> Fitted:
    """Ranks with the parameters that were kept."""
    params, progress, validate = trained.params, trained.progress, trained.validate
    assert validate is not None  # only a refit has none
    validation = validate(params)
    test, lists = rank_test(run, trained)
    return Fitted(
        params=params,
        validation=validation,
        test=test,
        lists=lists,
        history=progress.history,
        best_epoch=progress.best_epoch,
        parameters=served_parameters(run.student.student, params),
        train_seconds=progress.train_seconds,
        evaluate_seconds=progress.evaluate_seconds,
    )
