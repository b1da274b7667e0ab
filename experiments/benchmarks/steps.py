"""What a training step and a ranking cost: the command `bench`.

Measures the plain and the distilled step (cached teachers scored on either side, and live ones),
one epoch, and the ranking of all users, next to two floors: a step's operations at the machine's
own matrix-product speed, and its memory traffic at the machine's own copy speed. With Recformer
among the teachers also how fast it reads. The live teachers are not tuned and the cached vectors
are random ones of the same widths, because the times don't depend on the values.
"""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from jaxtyping import Int64

from bridge.live_teachers import LiveTeachers
from bridge.score_sources import Source
from bridge.teacher_bank import SIDES, TeacherBank
from bridge.teacher_vectors import Vectors
from experiments.benchmarks.floors import (
    Measurement,
    Speeds,
    machine_speeds,
    median_seconds,
    work_of,
)
from experiments.benchmarks.timing import Row, compiling_anew, once
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.train.feed import placed_inputs
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.loop import make_evaluator
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.rows import lazy_tables
from prmkd_jax.train.run import Run, fresh_student
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import TrainStep, init_state, make_train_step, take_steps
from prmkd_jax.train.stored import stored_of
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.recformer.tune import add_gradients
from teachers_torch.registry import kind
from teachers_torch.teacher import AnyTeacher, gives_scores

LIVE_BATCHES = 5  # Recformer takes many seconds for one
INSTANCES_READ = 256  # of Recformer's: enough for batches of like length


def rows(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[Row]:
    """The measurements as a suite's rows; of what is repeated they are medians."""
    found = []
    for name, value, unit in measure(settings, config.repeats):
        say(f"{name}: {value:.4g} {unit}".rstrip())
        found.append(once(name, value, unit))
    return found


def measure(settings: Settings, repeats: int) -> Iterator[Measurement]:
    """All measurements, each as soon as it is made.

    Raises:
        UserError: there is no teacher.
    """
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    task = load_task(settings)
    seed = settings.run.seeds[0]
    plain = plain_run(task, student_facts(task, settings), settings, seed, Path())
    speeds = machine_speeds()
    yield from speeds.measurements()
    step = time_steps("plain", plain, repeats)
    yield from step.measurements(speeds)
    teachers = _untuned_teachers(task, settings)
    live = LiveTeachers(teachers)
    sources = _random_vectors(task, teachers, live)
    distilled = dataclasses.replace(plain, distill=settings.distill, teachers=live, threshold=1.0)
    seconds = {}
    for side in SIDES:
        bank = TeacherBank(sources, live.default_weights.tolist(), side)
        timed = time_steps(
            f"distilled ({side})", dataclasses.replace(distilled, teachers=bank), repeats
        )
        yield from timed.measurements(speeds)
        seconds[side] = timed.step
        yield Measurement(f"distilled ({side}) / plain step", timed.step / step.step, "")
    live_input = _live_input_seconds(distilled)
    yield Measurement("distilled (live) input", live_input, "s")
    ratio = (seconds["torch"] + live_input) / step.step
    yield Measurement("distilled (live) with input / plain step", ratio, "")
    yield Measurement("ranking of all users", ranking_seconds(plain), "s")
    for teacher in teachers:
        if kind(teacher.name).reads_tokens:
            assert isinstance(teacher, RecformerTeacher)
            yield from recformer_speed(teacher, task.split.train_end, seed)


def recformer_speed(
    teacher: RecformerTeacher, train_end: Int64[np.ndarray, " users"], seed: int
) -> list[Measurement]:
    """Tokens a second, padding not counted, that Recformer encodes and that a tuning step reads.

    Args:
        teacher: need not be tuned.
        train_end: end of each user's training part.
        seed: seed of the users, whose last training instance is read.
    """
    users = np.random.default_rng(seed).permutation(len(train_end))[:INSTANCES_READ]
    encoded = train_end[users]
    tuned = encoded[: teacher.config.batch_size]

    def tokens(instances: Int64[np.ndarray, " n"]) -> int:
        return sum(len(teacher.reader.sequence(teacher.history(i)).ids) for i in instances)

    encoding = median_seconds(lambda: teacher.encode_instances(encoded), repeats=LIVE_BATCHES)
    teacher.model.train()
    tuning = median_seconds(lambda: add_gradients(teacher, tuned), repeats=LIVE_BATCHES)
    return [
        Measurement("recformer length of an instance", tokens(encoded) / len(encoded), "tokens"),
        Measurement("recformer encoding", tokens(encoded) / encoding, "tokens/s"),
        Measurement("recformer tuning", tokens(tuned) / tuning, "tokens/s"),
    ]


def _untuned_teachers(task: Task, settings: Settings) -> list[AnyTeacher]:
    cache = Cache(Path(settings.run.cache_dir))
    return [
        kind(name).build(task, settings.teachers, cache, lambda _: None)
        for name in settings.run.teachers
    ]


def _random_vectors(task: Task, teachers: Sequence[AnyTeacher], live: LiveTeachers) -> list[Source]:
    """Vectors of each teacher's own width; who gives scores is asked for them."""
    rng = np.random.default_rng(0)
    instances = len(task.dataset.interactions.items)

    def drawn(rows: int, width: int) -> np.ndarray:
        return rng.standard_normal((rows, width), dtype=np.float32).astype(np.float16)

    return [
        cast(Source, teacher)
        if gives_scores(teacher) or items is None
        else Vectors(
            name=teacher.name,
            scale=1.0,
            instances=drawn(instances, items.shape[1]),
            items=drawn(task.dataset.num_items, items.shape[1]),
        )
        for teacher, items in zip(teachers, live.items, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """Seconds of a step, and the program that was timed.

    Attributes:
        name: the step's name.
        compile: seconds to compile it.
        input: seconds to make a batch's input on the host, which training does meanwhile; median.
        steps: every step that counts.
        epoch: an epoch with the host's work.
        stored: seconds to make the joint scores that all epochs share; None where each step does.
        compiled: the program.
    """

    name: str
    compile: float
    input: float
    steps: Sequence[float]
    epoch: float
    stored: float | None
    compiled: jax.stages.Compiled

    @property
    def step(self) -> float:
        """The median step."""
        return statistics.median(self.steps)

    def measurements(self, speeds: Speeds) -> list[Measurement]:
        """The seconds, and the floors on a machine."""
        low, _, high = statistics.quantiles(self.steps, n=4)
        once = [] if self.stored is None else [("joint scores of all instances", self.stored)]
        return [
            *(Measurement(f"{self.name} {what}", seconds, "s") for what, seconds in once),
            Measurement(f"{self.name} compilation", self.compile, "s"),
            Measurement(f"{self.name} input", self.input, "s"),
            Measurement(f"{self.name} step", self.step, "s"),
            Measurement(f"{self.name} step, interquartile range", high - low, "s"),
            *work_of(self.compiled).measurements(f"{self.name} step", speeds),
            Measurement(f"{self.name} epoch", self.epoch, "s"),
        ]


def time_steps(name: str, run: Run, repeats: int) -> StepSeconds:
    """Times a run's step, its input, its compilation and one epoch.

    Args:
        name: the step's name.
        run: plain or distilled.
        repeats: steps that count, after one that doesn't.
    """
    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    mesh = make_mesh(1)
    state = place(mesh, init_state(params, optimizer, run.seed))
    constants = place(mesh, run_constants(run))
    step = make_train_step(graphdef, optimizer, run.distill, run.student, mesh, lazy_tables(run))
    batches = training_batches(run)
    stored = stored_of(run)
    inputs = itertools.cycle(distill_inputs(run, batches.epoch(0), stored=stored))
    if stored is not None:
        next(inputs)  # makes its scores, as one in `BATCHES_A_MEASURE` does
    started = time.perf_counter()
    first = next(inputs)
    made = time.perf_counter() - started
    seconds_to_compile, compiled = _compile(step, state, *first, constants)
    waits = []
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        batch = place_inputs(mesh, *next(inputs))
        waits.append(time.perf_counter() - started)
        started = time.perf_counter()
        state, metrics = step(state, *batch, constants)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - started)
    # What an accelerator compiles for calls of several steps is no epoch's time.
    for each in itertools.islice(placed_inputs(run, mesh, batches.epoch(0), stored=stored), 3):
        state, _ = take_steps(step, state, each, constants)
    jax.block_until_ready(state)
    started = time.perf_counter()
    for each in placed_inputs(run, mesh, batches.epoch(1), stored=stored):
        state, _ = take_steps(step, state, each, constants)
    jax.block_until_ready(state)
    epoch = time.perf_counter() - started
    return StepSeconds(
        name=name,
        compile=seconds_to_compile,
        input=statistics.median(waits[1:]),
        steps=times[1:],
        epoch=epoch,
        stored=None if stored is None else made,
        compiled=compiled,
    )


def _compile(step: TrainStep, *arguments: Any) -> tuple[float, jax.stages.Compiled]:
    with compiling_anew():
        started = time.perf_counter()
        compiled = step.lower(*arguments).compile()
        return time.perf_counter() - started, compiled


def _live_input_seconds(run: Run) -> float:
    """Median seconds to make a batch's input with teachers that are not cached."""
    batches = training_batches(run)
    # A small data set's epoch has fewer batches than are timed.
    endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
    inputs = distill_inputs(run, endless)
    return median_seconds(lambda: next(inputs)[1], repeats=LIVE_BATCHES)


def ranking_seconds(run: Run) -> float:
    """Median seconds to rank all items for all test users, after the compilation."""
    graphdef, params = fresh_student(run)
    evaluator = make_evaluator(run, graphdef, run.task.split.test)
    return median_seconds(evaluator, params, repeats=3)
