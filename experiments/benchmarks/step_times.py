"""Times of a training step at any size: what the suites `train`, `distill` and `scale` share."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax

from experiments.benchmarks.timing import FEWEST, compiling_anew
from prmkd_jax.data.batches import Batch
from prmkd_jax.train.inputs import (
    Constants,
    DistillBatch,
    distill_inputs,
    run_constants,
    training_batches,
)
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.rows import lazy_tables
from prmkd_jax.train.run import Run, fresh_student
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import TrainState, TrainStep, init_state, make_train_step

Inputs = tuple[Batch, DistillBatch | None]


class StepTimes(NamedTuple):
    """Seconds of a run's steps.

    Attributes:
        compile: time to compile the step.
        steps: each step that counts.
        inputs: times to make each step's input on the host.
        compiled: the program.
    """

    compile: float
    steps: list[float]
    inputs: list[float]
    compiled: jax.stages.Compiled


@dataclasses.dataclass
class Stepping:
    """A run ready to take steps, one at a time.

    Attributes:
        step: the compiled step.
        state: donated to each step.
        inputs: batches without end.
        constants: placed.
        compile: seconds to compile.
        compiled: the program.
    """

    step: TrainStep
    state: TrainState
    inputs: Iterator[Inputs]
    constants: Constants
    compile: float
    compiled: jax.stages.Compiled

    def take(self) -> tuple[float, float]:
        """Takes a step; seconds of its input and of itself."""
        started = time.perf_counter()
        batch = place_inputs(make_mesh(1), *next(self.inputs))
        ready = time.perf_counter()
        self.state, metrics = self.step(self.state, *batch, self.constants)
        jax.block_until_ready((self.state, metrics))
        return ready - started, time.perf_counter() - ready


def lowered(run: Run) -> jax.stages.Lowered:
    """A run's step as a program, not yet compiled."""
    step, state, inputs, constants = _begin(run)
    batch, distill = next(inputs)
    return step.lower(state, batch, distill, constants)


def prepare(run: Run) -> Stepping:
    """Compiles a run's step and takes the first one."""
    step, state, inputs, constants = _begin(run)
    batch, distill = next(inputs)
    with compiling_anew():
        started = time.perf_counter()
        compiled = step.lower(state, batch, distill, constants).compile()
        seconds = time.perf_counter() - started
    ready = Stepping(step, state, inputs, constants, seconds, compiled)
    ready.take()
    return ready


def _begin(run: Run) -> tuple[TrainStep, TrainState, Iterator[Inputs], Constants]:
    """The step, the first state, batches without end, and the constants."""
    graphdef, params = fresh_student(run)
    optimizer, mesh = make_optimizer(run.train), make_mesh(1)
    state = place(mesh, init_state(params, optimizer, run.seed))
    constants = place(mesh, run_constants(run))
    step = make_train_step(graphdef, optimizer, run.distill, run.student, mesh, lazy_tables(run))
    epochs = map(training_batches(run).epoch, itertools.count())
    inputs = iter(distill_inputs(run, itertools.chain.from_iterable(epochs)))
    return step, state, inputs, constants


def time_steps(run: Run, repeats: int = FEWEST) -> StepTimes:
    """Compiles the step of a run, takes one that doesn't count, then `repeats` that do."""
    ready = prepare(run)
    waits, times = zip(*(ready.take() for _ in range(repeats)), strict=True)
    return StepTimes(ready.compile, list(times), list(waits), ready.compiled)
