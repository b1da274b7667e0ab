"""The programs that are compared: a student's scores, and its training step with PRM-KD."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.extend import core

from bridge.teacher_bank import TeacherBank
from bridge.teacher_vectors import Vectors
from experiments.cli.settings import Settings
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.data.batches import Batch
from prmkd_jax.data.task import Task
from prmkd_jax.ops.arrays import Array
from prmkd_jax.students.student import Params
from prmkd_jax.train.inputs import (
    Constants,
    DistillBatch,
    distill_inputs,
    run_constants,
    training_batches,
)
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.run import Run, fresh_student
from prmkd_jax.train.sharding import make_mesh
from prmkd_jax.train.step import StepMetrics, TrainState, init_state, make_train_step

Stepping = Callable[..., tuple[TrainState, StepMetrics]]
"""A training step, not yet compiled."""


@dataclasses.dataclass(frozen=True)
class JaxProgram:
    """A pure function and what it is called with.

    Attributes:
        name: `forward` or `step`.
        function: the function, not yet compiled.
        arguments: arrays; the programs depend on their shapes alone.
        donated: places of the arguments whose memory the results take.
    """

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    donated: tuple[int, ...] = ()

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        """The program as JAX traces it: once, whatever is then lowered or compiled of it."""
        return jax.jit(self.function, donate_argnums=self.donated).trace(*self.arguments)

    def flat(self) -> tuple[Callable[..., object], list[jax.ShapeDtypeStruct], tuple[int, ...]]:
        """The traced program of single arrays: function, arguments, places of the donated ones."""
        owners, shapes = [], []
        for place, argument in enumerate(self.arguments):
            for leaf in jax.tree.leaves(argument):
                owners.append(place)
                shapes.append(jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype))
        donated = tuple(i for i, place in enumerate(owners) if place in self.donated)
        return core.jaxpr_as_fun(self.traced.jaxpr), shapes, donated


@dataclasses.dataclass(frozen=True)
class Case:
    """One student on one data set, with random teachers.

    Attributes:
        run: the distilled run.
        graphdef: the student's structure.
        params: the student's first parameters.
        optimizer: the optimiser, as training has it.
        constants: the constants of the run.
        batch: the first one.
        distill: the columns of the first batch.
    """

    run: Run
    graphdef: nnx.GraphDef
    params: Params
    optimizer: optax.GradientTransformation
    constants: Constants
    batch: Batch
    distill: DistillBatch

    def step(self, optimizer: optax.GradientTransformation | None = None) -> Stepping:
        """The training step, not yet compiled.

        Args:
            optimizer: another one than the run's.
        """
        run = self.run
        chosen = optimizer or self.optimizer
        made = make_train_step(self.graphdef, chosen, run.distill, run.student, make_mesh(1))
        # `jax.jit` keeps the function that it compiles.
        return cast(Any, made).__wrapped__

    def first_state(
        self,
        optimizer: optax.GradientTransformation | None = None,
        dtype: jnp.dtype | None = None,
    ) -> TrainState:
        """The state before the first step.

        Args:
            optimizer: another one than the run's.
            dtype: the dtype of the parameters that the step computes with; None for float32.
        """
        chosen = optimizer or self.optimizer
        state = init_state(self.params, chosen, self.run.seed)
        return state.replace(params=cast_params(jax.tree.map(jnp.array, state.params), dtype))

    def forward(self, params: Params, batch: Batch) -> Array:
        """The scores of all items for a batch's instances, without dropout."""
        student = nnx.merge(self.graphdef, nnx.State(params))
        queries = batch.at_targets(student.queries(batch.rows))
        return student.score(queries, student.items())

    def programs(self) -> tuple[JaxProgram, JaxProgram]:
        """Forward pass and training step."""
        inputs = (self.first_state(), self.batch, self.distill, self.constants)
        return (
            JaxProgram("forward", self.forward, (self.params, self.batch)),
            JaxProgram("step", self.step(), inputs, donated=(0,)),
        )


def make_case(task: Task, settings: Settings, student: str, seed: int = 0) -> Case:
    """A student with its teachers' vectors drawn at random, since only their shapes count.

    Args:
        task: data and split.
        settings: sizes, batch and distillation; `--teachers` says how many vectors an item has.
        student: the student's name.
        seed: seed of the student and the batches.
    """
    settings = dataclasses.replace(
        settings, student=dataclasses.replace(settings.student, student=student)
    )
    facts = student_facts(task, settings)
    bank = _random_bank(task, len(settings.run.teachers), settings)
    run = plain_run(task, facts, settings, seed, Path())
    run = dataclasses.replace(run, distill=settings.distill, teachers=bank, threshold=1.0)
    graphdef, params = fresh_student(run)
    batch, distill = next(distill_inputs(run, training_batches(run).epoch(0)))
    assert distill is not None
    constants = run_constants(run)
    return Case(run, graphdef, params, make_optimizer(run.train), constants, batch, distill)


def _random_bank(task: Task, count: int, settings: Settings) -> TeacherBank:
    width = settings.student.hidden_size
    sizes = len(task.dataset.interactions.items), task.dataset.num_items
    rng = np.random.default_rng(0)

    def drawn(rows: int) -> np.ndarray:
        # Unit length on average: logits of the size that teachers give.
        values = rng.standard_normal((rows, width), dtype=np.float32) / width**0.25
        return values.astype(np.float16)

    vectors = [Vectors(f"teacher {k}", 1.0, drawn(sizes[0]), drawn(sizes[1])) for k in range(count)]
    return TeacherBank(vectors, [1.0] * count, "jax")


class _Masters(NamedTuple):
    params: Any
    inner: Any


def with_masters(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer on float32 copies of parameters that the step has in fewer bits.

    The state of `init` must be made of the float32 parameters.
    """

    def init(params: Any) -> _Masters:
        return _Masters(jax.tree.map(jnp.array, params), optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, _Masters]:
        wide = cast_params(updates, jnp.dtype(jnp.float32))
        steps, inner = optimizer.update(wide, state.inner, state.params)
        masters = optax.apply_updates(state.params, steps)
        # Added to the parameters, these give the copies, rounded.
        moved = jax.tree.map(lambda new, old: new - old.astype(new.dtype), masters, params)
        return moved, _Masters(masters, inner)

    return optax.GradientTransformation(init, update)


def gradient_alone() -> optax.GradientTransformation:
    """An optimizer that moves nothing: its state after a step is the gradient."""

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map(jnp.zeros_like, updates), updates

    return optax.GradientTransformation(lambda params: params, update)


def cast_params(params: Params, dtype: jnp.dtype | None) -> Params:
    """The parameters in another dtype; None leaves them."""
    if dtype is None:
        return params
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
