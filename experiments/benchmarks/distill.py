"""What distillation adds to a step: `bench --suite=distill`.

By number of teachers, 0 to 8, and by where their scores are made. The plain and the distilled steps
take turns, so what else the machine does meets all alike; ratios are medians of a round's.
"""

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bridge.teacher_bank import SIDES, TeacherBank
from bridge.teacher_vectors import Vectors
from experiments.benchmarks.floors import xla_work
from experiments.benchmarks.step_times import prepare
from experiments.benchmarks.timing import BenchRow, once, seconds_of, take_turns
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.data.task import Task
from prmkd_jax.train.run import Run

COUNTS = (1, 2, 3, 5, 8)
WIDTH = 64


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """Seconds of the plain step and of every distilled one, their ratios, and FLOP ratios."""
    task = load_task(settings)
    seed = settings.run.seeds[0]
    plain = plain_run(task, student_facts(task, settings), settings, seed, Path())
    alone = prepare(plain)
    rows = []
    base = xla_work(alone.compiled).flops
    for side in SIDES:
        for count in COUNTS:
            sources = [random_vectors(task, k) for k in range(count)]
            taught = prepare(_distilled(plain, settings, TeacherBank(sources, [1.0] * count, side)))
            times = take_turns([alone.take_step, taught.take_step], range(config.repeats))
            name = f"distilled step, scored by {side}"
            rows.append(seconds_of(name, times[1], teachers=count))
            ratios = np.divide(times[1], times[0])
            low, middle, high = np.percentile(ratios, [25, 50, 75]).tolist()
            of = {"teachers": count}
            rows.append(BenchRow(f"{name} / plain", middle, "", low, high, len(ratios), of))
            flops = xla_work(taught.compiled).flops / max(base, 1)
            rows.append(once(f"{name} / plain, FLOPs", flops, "", teachers=count))
            say(f"{name}, {count} teachers: {statistics.median(ratios):.3f} times the plain one")
    return [seconds_of("plain step", [alone.take_step() for _ in range(config.repeats)]), *rows]


def random_vectors(task: Task, number: int, width: int = WIDTH) -> Vectors:
    """A teacher with random vectors, in memory."""
    rng = np.random.default_rng(number)
    sizes = len(task.dataset.interactions.items), task.dataset.num_items
    drawn = [rng.standard_normal((rows, width), np.float32).astype(np.float16) for rows in sizes]
    return Vectors(f"random{number}", 1.0, *drawn)


def _distilled(plain: Run, settings: Settings, bank: TeacherBank) -> Run:
    return dataclasses.replace(plain, distill=settings.distill, teachers=bank, threshold=1.0)
