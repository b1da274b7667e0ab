"""One training step, pure: eq. 6 of arXiv 2401.00797, its gradient, Adam."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from prmkd_jax.data.batches import Batch, Columns
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.per_user import TeacherMeasures, UserInput, distill_batch
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables, score_columns
from prmkd_jax.ops.negatives import Popularity, Seen
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.student import HasAuxiliary
from prmkd_jax.train.objective import row_losses

Params = dict[str, Any]


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
    step: Array
    key: Array


class DistillInput(NamedTuple):
    """What a distilled step needs beyond the batch.

    Attributes:
        columns: the batch's columns.
        instance_ids: the instances whose prefixes the teachers have read.
        teachers: cached vectors, or this batch's scores.
        default_weights: w, summing to 1.
        threshold: epsilon.
        item_groups: every item's group of popularity, for UnKD alone.
    """

    columns: Columns
    instance_ids: Int[Array, " B"]
    teachers: TeacherTables | TeacherScores
    default_weights: Float[Array, " K"]
    threshold: Float[Array, ""]
    item_groups: Int[Array, " V"] | None = None


class StepMetrics(NamedTuple):
    """Means over the batch's real rows; they stay on the device until a log line is due.

    `cross_entropy` is the student's own loss, whichever `--loss` is.
    """

    loss: Float[Array, ""]
    cross_entropy: Float[Array, ""]
    distillation: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    rows: Float[Array, ""]
    teachers: TeacherMeasures | None


def user_inputs(distill: DistillInput) -> UserInput:
    """The distillation's view of a batch: the teachers score the columns, user by user."""
    columns = distill.columns
    scored = score_columns(distill.teachers, distill.instance_ids, columns.candidates)
    group = None
    if distill.item_groups is not None:
        group = jnp.broadcast_to(distill.item_groups[columns.candidates], columns.valid.shape)
    return UserInput(
        scored.scores.swapaxes(0, 1),
        scored.available,
        jnp.asarray(columns.valid),
        jnp.asarray(columns.target_columns),
        group,
    )


# The state, the batch, the distillation's input, what the loss knows of the training part.
TrainStep = Callable[..., tuple[TrainState, StepMetrics]]


def init_state(params: Params, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    return TrainState(
        params=params,
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
    )


@functools.cache
def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    config: DistillConfig | None,
    student_config: StudentConfig,
) -> TrainStep:
    """Compiles the step of the plain (`config` None) or of the distilled student, once.

    The state is donated: the caller must not touch the old one again.
    """

    def loss_fn(
        params: Params,
        batch: Batch,
        distill: DistillInput | None,
        known: Popularity | Seen | None,
        key: Array,
    ):
        student, rngs = nnx.merge(graphdef, nnx.State(params)), nnx.Rngs(key)
        queries, items = batch.asked(student.queries(batch.rows, rngs)), student.items()
        rows = jnp.maximum(batch.real.sum(), 1).astype(jnp.float32)

        def mean(per_row: Array) -> Array:
            real = batch.real.reshape(-1, *[1] * (per_row.ndim - 1))
            return jnp.where(real, per_row, 0.0).sum(0) / rows

        ce = mean(row_losses(student_config, student, queries, items, batch, known, key))
        kd, measures = jnp.float32(0.0), None
        if config is not None:
            if distill is None:
                raise ValueError("a distilled step needs its teachers")
            users = user_inputs(distill)
            logits = student.score(queries, items[distill.columns.candidates])
            per_row, measures = distill_batch(
                logits, users, distill.default_weights, distill.threshold, config
            )
            kd, measures = mean(per_row), jax.tree.map(mean, measures)
        # At weight 0 not even `ce + 0 * kd`: the plain student's gradient, bit for bit.
        loss = ce + config.distill_weight * kd if config and config.distill_weight else ce
        if isinstance(student, HasAuxiliary):
            loss = loss + student.auxiliary(batch.rows, rngs)
        return loss, (ce, kd, rows, measures)

    def train_step(
        state: TrainState,
        batch: Batch,
        distill: DistillInput | None = None,
        known: Popularity | Seen | None = None,
    ):
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (loss, (ce, kd, rows, measures)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, batch, distill, known, key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(loss, ce, kd, optax.tree.norm(grads), rows, measures)
        return state.replace(params=params, opt_state=opt_state, step=state.step + 1), metrics

    return jax.jit(train_step, donate_argnums=0)
