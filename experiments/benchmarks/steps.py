"""What a training step and a ranking cost: the command `bench`.

Measures the plain and the distilled step (cached teachers scored on either side, and live ones),
one epoch, and the ranking of all users, next to two floors: a step's operations at the machine's
own matrix-product speed, and its memory traffic at the machine's own copy speed. With Recformer
among the teachers also how fast it reads. The live teachers are not tuned and the cached vectors
are random ones of the same widths, because the times don't depend on the values.
"""

import dataclasses
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

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
    xla_work,
)
from experiments.benchmarks.step_times import StepTimes, fresh_inputs, prepare
from experiments.benchmarks.timing import BenchRow, once
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.task import Task
from prmkd_jax.train.loop import make_evaluator
from prmkd_jax.train.run import Run, fresh_student
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.recformer.tune import add_gradients
from teachers_torch.registry import kind
from teachers_torch.teacher import AnyTeacher, gives_scores

LIVE_BATCHES = 5  # Recformer takes many seconds for one
INSTANCES_READ = 256  # of Recformer's: enough for batches of like length


def rows(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
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
    step = time_run("plain", plain, repeats)
    yield from step.measurements(speeds)
    teachers = _untuned_teachers(task, settings)
    live = LiveTeachers(teachers)
    sources = _random_vectors(task, teachers, live)
    distilled = dataclasses.replace(plain, distill=settings.distill, teachers=live, threshold=1.0)
    seconds = {}
    for side in SIDES:
        bank = TeacherBank(sources, live.default_weights.tolist(), side)
        timed = time_run(
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
class RunTimes:
    """What a run's step and epoch take.

    Attributes:
        name: the step's name.
        of_steps: compilation, inputs and steps.
        epoch: seconds of an epoch with the host's work.
    """

    name: str
    of_steps: StepTimes
    epoch: float

    @property
    def step(self) -> float:
        """The median step."""
        return self.of_steps.step

    def measurements(self, speeds: Speeds) -> list[Measurement]:
        """The seconds, and the floors on a machine."""
        name, of_steps = self.name, self.of_steps
        low, _, high = statistics.quantiles(of_steps.steps, n=4)
        joint = of_steps.joint_scores
        made = [] if joint is None else [("joint scores of all instances", joint)]
        return [
            *(Measurement(f"{name} {what}", seconds, "s") for what, seconds in made),
            Measurement(f"{name} compilation", of_steps.compile, "s"),
            Measurement(f"{name} input", of_steps.input, "s"),
            Measurement(f"{name} step", self.step, "s"),
            Measurement(f"{name} step, interquartile range", high - low, "s"),
            *xla_work(of_steps.compiled).measurements(f"{name} step", speeds),
            Measurement(f"{name} epoch", self.epoch, "s"),
        ]


def time_run(name: str, run: Run, repeats: int) -> RunTimes:
    """Times a run's step, its input, its compilation and one epoch.

    Args:
        name: the step's name.
        run: plain or distilled.
        repeats: steps that count, after one that doesn't.
    """
    ready = prepare(run)
    of_steps = ready.times(repeats)
    return RunTimes(name, of_steps, ready.epoch())


def _live_input_seconds(run: Run) -> float:
    """Median seconds to make a batch's input with teachers that are not cached."""
    inputs = fresh_inputs(run)
    return median_seconds(lambda: next(inputs)[1], repeats=LIVE_BATCHES)


def ranking_seconds(run: Run) -> float:
    """Median seconds to rank all items for all test users, after the compilation."""
    graphdef, params = fresh_student(run)
    evaluator = make_evaluator(run, graphdef, run.task.split.test)
    return median_seconds(evaluator, params, repeats=3)
