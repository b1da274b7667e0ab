"""Times of a training step: what the suites `train`, `students`, `distill` and `scale` share."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.sharding import Mesh

from experiments.benchmarks.timing import FEWEST, compiling_anew
from prmkd_jax.data.batches import Batch
from prmkd_jax.train.feed import placed_inputs
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
from prmkd_jax.train.step import TrainState, TrainStep, init_state, make_train_step, take_steps
from prmkd_jax.train.stored import stored_of

Inputs = tuple[Batch, DistillBatch | None]
Stored = Callable[[Batch], DistillBatch]


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Seconds of a run's steps, and the program that was timed.

    Attributes:
        compile: time to compile the step.
        steps: each step that counts.
        inputs: times to make each step's input on the host, which training does meanwhile.
        joint_scores: time to make the joint scores that all epochs share; None where each step
            makes its own.
        compiled: the program.
    """

    compile: float
    steps: Sequence[float]
    inputs: Sequence[float]
    joint_scores: float | None
    compiled: jax.stages.Compiled

    @property
    def step(self) -> float:
        """The median step."""
        return statistics.median(self.steps)

    @property
    def input(self) -> float:
        """The median input."""
        return statistics.median(self.inputs)


@dataclasses.dataclass
class Stepping:
    """A run ready to take steps, one at a time.

    Attributes:
        run: the training.
        mesh: one device.
        step: the compiled step.
        state: donated to each step.
        inputs: batches without end.
        constants: placed.
        stored: gives the joint scores that all epochs share.
        compile: seconds to compile.
        joint_scores: seconds to make the joint scores that all epochs share, if there are such.
        compiled: the program.
    """

    run: Run
    mesh: Mesh
    step: TrainStep
    state: TrainState
    inputs: Iterator[Inputs]
    constants: Constants
    stored: Stored | None
    compile: float
    joint_scores: float | None
    compiled: jax.stages.Compiled

    def take(self) -> tuple[float, float]:
        """Takes a step; seconds of its input and of itself."""
        started = time.perf_counter()
        batch = place_inputs(self.mesh, *next(self.inputs))
        ready = time.perf_counter()
        self.state, metrics = self.step(self.state, *batch, self.constants)
        jax.block_until_ready((self.state, metrics))
        return ready - started, time.perf_counter() - ready

    def take_step(self) -> float:
        """Takes a step; its seconds, without its input's."""
        return self.take()[1]

    def times(self, repeats: int = FEWEST) -> StepTimes:
        """Takes so many steps."""
        waits, steps = zip(*(self.take() for _ in range(repeats)), strict=True)
        return StepTimes(self.compile, steps, waits, self.joint_scores, self.compiled)

    def epoch(self) -> float:
        """Seconds of an epoch with the host's work."""
        # What an accelerator compiles for calls of several steps is no epoch's time.
        self._train(0, 3)
        started = time.perf_counter()
        self._train(1)
        return time.perf_counter() - started

    def _train(self, epoch: int, calls: int | None = None) -> None:
        batches = training_batches(self.run).epoch(epoch)
        inputs = placed_inputs(self.run, self.mesh, batches, stored=self.stored)
        for each in itertools.islice(inputs, calls):
            self.state, _ = take_steps(self.step, self.state, each, self.constants)
        jax.block_until_ready(self.state)


def lowered(run: Run) -> jax.stages.Lowered:
    """A run's step as a program, not yet compiled."""
    step, state, constants = _begin(run, make_mesh(1))
    return step.lower(state, *next(fresh_inputs(run)), constants)


def prepare(run: Run) -> Stepping:
    """Compiles a run's step and takes the first one."""
    mesh, stored = make_mesh(1), stored_of(run)
    step, state, constants = _begin(run, mesh)
    inputs = fresh_inputs(run, stored)
    if stored is not None:
        next(inputs)  # makes its scores, as one in `BATCHES_A_MEASURE` does
    started = time.perf_counter()
    first = next(inputs)
    joint_scores = None if stored is None else time.perf_counter() - started
    with compiling_anew():
        started = time.perf_counter()
        compiled = step.lower(state, *first, constants).compile()
        seconds = time.perf_counter() - started
    ready = Stepping(
        run, mesh, step, state, inputs, constants, stored, seconds, joint_scores, compiled
    )
    ready.take()
    return ready


def fresh_inputs(run: Run, stored: Stored | None = None) -> Iterator[Inputs]:
    """Inputs without end, epoch after epoch, each made when it is asked for.

    A small data set's epoch has fewer batches than are timed.
    """
    epochs = map(training_batches(run).epoch, itertools.count())
    return distill_inputs(run, itertools.chain.from_iterable(epochs), stored=stored)


def _begin(run: Run, mesh: Mesh) -> tuple[TrainStep, TrainState, Constants]:
    """The step, the first state, and the constants."""
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    state = place(mesh, init_state(params, optimizer, run.seed))
    constants = place(mesh, run_constants(run))
    step = make_train_step(graphdef, optimizer, run.distill, run.student, mesh, lazy_tables(run))
    return step, state, constants
