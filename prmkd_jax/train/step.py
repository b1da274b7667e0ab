"""One training step, pure: eq. 6 of arXiv 2401.00797, its gradient, Adam."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, Int32, Key, UInt32

from prmkd_jax.data.batches import Batch
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.per_user import TeacherMeasures, distill_batch, learn_batch
from prmkd_jax.ops.arrays import Array
from prmkd_jax.ops.row_blocks import blocks_gain
from prmkd_jax.ops.rows import ItemRows, Items, MadeRows, places
from prmkd_jax.ops.shards import on_each_device, scores_of
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.student import HasAuxiliary, MakesSomeItems, Params, Student
from prmkd_jax.students.tables import Divided, Tables, trim_tables
from prmkd_jax.train.inputs import Constants, DistillBatch, Inputs
from prmkd_jax.train.objective import Instances, draw_items, loss_of, own_losses
from prmkd_jax.train.row_blocks import block_size, losses_in_blocks, on_a_processor
from prmkd_jax.train.rows import ItemTables, needed_items, put_rows, take_rows
from prmkd_jax.train.sharding import (
    BATCH,
    CONSTANTS,
    DISTILL_BATCH,
    STATE,
    STEP_METRICS,
    shardings,
)
from prmkd_jax.train.teaching import taught_before, user_inputs

INSTANCES_A_MEASURE = 8
"""Of so many instances of a batch one is measured, for the log. Measuring all of them took as long
as the distillation loss with its gradient, a tenth of the step of a SASRec 64 wide."""

_KEPT = 8
"""Compiled steps that are kept: a study's runs share theirs, a search's hundred trials don't."""


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training; a plain pytree.

    Attributes:
        params: the student's parameters as nested dictionaries.
        opt_state: Adam's moments.
        step: steps done.
        key: root of the dropout keys (`jax.random.key_data`); step i uses fold_in(key, i).
    """

    params: Params
    opt_state: optax.OptState
    step: Int32[Array, ""]
    key: UInt32[Array, " words"]


class StepMetrics(NamedTuple):
    """Means over a batch's instances; they stay on the device until a log line is due.

    Attributes:
        loss: the minimised sum.
        cross_entropy: the student's own loss, whichever `--loss` is.
        distillation: the distillation loss, not yet weighted; 0 for the plain student.
        gradient_norm: L2 norm of the gradient, before decay and Adam.
        num_instances: number of instances in the batch.
        teachers: measures of each teacher, means over one instance in `INSTANCES_A_MEASURE`; None
            for the plain student, and where the joint scores were made before.
        num_measured: number of instances that they are of.
    """

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    distillation: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    num_instances: Float[Array, ""]
    teachers: TeacherMeasures | None
    num_measured: Float[Array, ""]


@runtime_checkable
class TrainStep(Protocol):
    """A jitted step."""

    def __call__(
        self, state: TrainState, batch: Batch, distill: DistillBatch | None, constants: Constants
    ) -> tuple[TrainState, StepMetrics]:
        """Takes one step; `state` is donated."""
        ...

    def lower(
        self, state: TrainState, batch: Batch, distill: DistillBatch | None, constants: Constants
    ) -> jax.stages.Lowered:
        """The step as a program for these shapes, not yet compiled."""
        ...


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
    )


@functools.lru_cache(maxsize=_KEPT)
def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: DistillConfig | None,
    student_config: StudentConfig,
    mesh: Mesh,
    lazy: ItemTables | None = None,
    divided: Tables = (),
    in_blocks: bool | None = None,
) -> TrainStep:
    """Compiles the step of the plain (`config` None) or of the distilled student, once.

    The state is donated: the caller must not use the old one again. With `lazy`, only the rows
    of these tables that the batch reads are updated (`train.rows`). Of `divided` tables each device
    of the mesh's axis `model` has a part of the rows (`students.tables`). Losses over a large
    catalogue are made `in_blocks` of rows; None: where that gains anything (`train.row_blocks`).
    """
    in_blocks = on_a_processor(mesh) if in_blocks is None else in_blocks
    setup = _Setup(graphdef, config, student_config, divided, in_blocks, lazy)
    loss_fn = functools.partial(_batch_loss, setup)

    def train_step(
        state: TrainState, batch: Batch, distill: DistillBatch | None, constants: Constants
    ):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        ids, params, moments = None, state.params, state.opt_state
        if lazy is not None:
            ids = _read_items(lazy, student_config, batch, distill, constants, key)
            params, moments = (take_rows(tree, lazy, ids) for tree in (params, moments))
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, batch, distill, constants, key, ids
        )
        updates, opt_state = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        if lazy is not None and ids is not None:
            params = put_rows(state.params, params, lazy, ids)
            opt_state = put_rows(state.opt_state, opt_state, lazy, ids)
        metrics = metrics._replace(gradient_norm=optax.tree.norm(grads))
        return state.replace(params=params, opt_state=opt_state, step=state.step + 1), metrics

    distill_specs = None if config is None else DISTILL_BATCH
    if divided:
        return _divided_step(train_step, Divided(mesh, divided), distill_specs)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=shardings(mesh, (STATE, BATCH, distill_specs, CONSTANTS)),
        out_shardings=shardings(mesh, (STATE, STEP_METRICS)),
    )


def take_steps(
    step: TrainStep, state: TrainState, inputs: Inputs, constants: Constants
) -> tuple[TrainState, StepMetrics]:
    """Takes the steps of one call; `state` is donated.

    Returns:
        The state after them, and the metrics, with a first axis where the call takes several.
    """
    call = step if inputs.steps == 1 else _several_steps(step)
    return call(state, inputs.batch, inputs.distill, constants)


@functools.lru_cache(maxsize=_KEPT)
def _several_steps(step: TrainStep) -> TrainStep:
    """The same steps, one after the other within one program."""

    def several(
        state: TrainState, batches: Batch, distill: DistillBatch | None, constants: Constants
    ):
        def one(state: TrainState, inputs: tuple[Batch, DistillBatch | None]):
            return step(state, *inputs, constants)

        return jax.lax.scan(one, state, (batches, distill))

    return jax.jit(several, donate_argnums=0)


def _read_items(
    lazy: ItemTables,
    student_config: StudentConfig,
    batch: Batch,
    distill: DistillBatch | None,
    constants: Constants,
    key: Key[Array, ""],
) -> Int[Array, " M"]:
    """The items that a step reads: `needed_items` with those that its loss draws."""
    # Of the same key, so those that `own_losses` draws.
    drawn = draw_items(student_config, constants.prepared, _users(batch), lazy.num_items, key)
    return needed_items(batch, distill, drawn, lazy.num_items)


def _users(batch: Batch) -> Int[Array, " B"]:
    """Each instance's user."""
    return batch.at_targets(jnp.asarray(batch.rows.users).reshape(-1))


def _divided_step(
    train_step: Callable[..., tuple[TrainState, StepMetrics]],
    divided: Divided,
    distill_specs: DistillBatch | None,
) -> TrainStep:
    """The step where tables are divided; state and constants come as they were placed."""
    assert divided.mesh is not None

    def step(state: TrainState, *inputs: object) -> tuple[TrainState, StepMetrics]:
        with divided.tracing():
            state, metrics = train_step(state, *inputs)
            metrics = on_each_device(metrics)
        return jax.lax.with_sharding_constraint(state, divided.shardings(state)), metrics

    specs = shardings(divided.mesh, (BATCH, distill_specs))
    return jax.jit(step, donate_argnums=0, in_shardings=(None, *specs, None))


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What is the same in every step of a run; see `make_train_step`."""

    graphdef: nnx.GraphDef
    config: DistillConfig | None
    student_config: StudentConfig
    divided: Tables
    in_blocks: bool
    lazy: ItemTables | None


def _batch_loss(
    setup: _Setup,
    params: Params,
    batch: Batch,
    distill: DistillBatch | None,
    constants: Constants,
    key: Key[Array, ""],
    ids: Int[Array, " M"] | None,
) -> tuple[Float[Array, ""], StepMetrics]:
    """What is minimised, and the metrics, whose gradient's norm is still 0.

    With `ids` the tables of `params` have these items' rows alone.
    """
    config, student_config, lazy = setup.config, setup.student_config, setup.lazy
    student = nnx.merge(setup.graphdef, nnx.State(trim_tables(params, setup.divided)))
    rngs = nnx.Rngs(key)
    rows = batch.rows
    if ids is not None:
        rows = rows._replace(item_seq=places(ids, rows.item_seq))
    queries = batch.at_targets(student.queries(rows, rngs))
    if ids is not None and lazy is not None:
        items = ItemRows(student.items(), ids, lazy.num_items)
    else:
        items = _items(student, student_config, config, len(queries))
    instances = Instances(queries, items, jnp.asarray(batch.targets), _users(batch))
    num_instances = jnp.maximum(batch.is_instance.sum(), 1).astype(jnp.float32)

    def mean(values: Array) -> Array:
        return jnp.where(batch.is_instance, values, 0.0).sum(0) / num_instances

    kd = measures = block = None
    num_measured = jnp.float32(0.0)
    if setup.in_blocks:
        block = block_size(student_config, config, items, len(queries), distill)
    if block is not None:
        given = (instances, jnp.asarray(batch.is_instance), distill, constants, key, block)
        total, ce, kd = losses_in_blocks(student_config, config, student, *given)
    else:
        instances = _scored(student, instances, config)
        total = ce = mean(own_losses(student_config, student, instances, constants.prepared, key))
    if config is not None and kd is None:
        losses, measures = _distilled(config, student, instances, distill, constants)
        kd = mean(losses)
        if measures is not None:
            measured = jnp.asarray(batch.is_instance)[:: _every(config)]
            num_measured = measured.sum().astype(jnp.float32)
            measures = _mean_measures(measures, measured)
        # At weight 0 not even `+ 0 * kd`: the plain student's gradient, bit for bit.
        if config.distill_weight:
            total = total + config.distill_weight * kd
    if isinstance(student, HasAuxiliary):
        with blocks_gain(setup.in_blocks):
            total = total + student.auxiliary(rows, rngs)
    zero = jnp.float32(0.0)
    kd = zero if kd is None else kd
    return total, StepMetrics(total, ce, kd, zero, num_instances, measures, num_measured)


def _items(
    student: Student, student_config: StudentConfig, config: DistillConfig | None, num_rows: int
) -> Items:
    """Vectors of all items, or of those that the losses ask for where these are fewer."""
    over_all = config is not None and config.negatives == "catalogue"
    if over_all or loss_of(student_config).draw is None or not isinstance(student, MakesSomeItems):
        return student.items()
    num_items = len(jax.eval_shape(student.items))
    # A row asks for its target and about one more.
    return MadeRows(student.items_at, num_items) if 2 * num_rows < num_items else student.items()


def _every(config: DistillConfig) -> int:
    """Of how many instances of a batch one is measured."""
    # Over the catalogue few batches come without joint scores; of those all instances count.
    return 1 if config.negatives == "catalogue" else INSTANCES_A_MEASURE


def _mean_measures(measures: TeacherMeasures, measured: Bool[Array, " M"]) -> TeacherMeasures:
    """Means over the instances that are some."""

    def mean(values: Array) -> Array:
        return jnp.where(measured[:, None], values, 0.0).sum(0) / jnp.maximum(measured.sum(), 1)

    return jax.tree.map(mean, measures)


def _scored(student: Student, batch: Instances, config: DistillConfig | None) -> Instances:
    """With the scores of all items where both losses want them: one product for both gradients."""
    over_all = config is not None and config.negatives == "catalogue"
    if not over_all or isinstance(batch.items, ItemRows | MadeRows):
        return batch
    logits = scores_of(student.score, batch.queries, batch.items, len(batch.items))
    return batch._replace(logits=logits)


def _distilled(
    config: DistillConfig,
    student: Student,
    instances: Instances,
    distill: DistillBatch | None,
    constants: Constants,
) -> tuple[Float[Array, " B"], TeacherMeasures | None]:
    """Each instance's distillation loss, and measures of some unless the joint scores are given."""
    weights = constants.default_weights
    threshold = constants.threshold
    if distill is None or weights is None or threshold is None:
        raise ValueError("a distilled step needs its teachers")
    logits = instances.logits
    if logits is None:
        columns = instances.items[jnp.asarray(distill.columns.candidates)]
        logits = student.score(instances.queries, columns)
    if distill.joint is not None:
        taught = taught_before(jnp.asarray(distill.joint), distill.columns, constants)
        return learn_batch(logits, taught, config), None
    users = user_inputs(distill, constants)
    return distill_batch(logits, users, weights, threshold, config, _every(config))
