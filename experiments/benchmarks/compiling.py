"""What compilation takes: `bench --suite=compile`: new, and read from the cache of programs."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from bridge.teacher_bank import TeacherBank
from experiments.benchmarks.distill import random_vectors
from experiments.benchmarks.step_times import lowered
from experiments.benchmarks.timing import FEWEST, BenchRow, compiling_anew, seconds_of
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.train.run import Run

TEACHERS = 3


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """Seconds to trace, to compile, and to take from the cache, of the plain and distilled step."""
    task = load_task(settings)
    seed = settings.run.seeds[0]
    plain = plain_run(task, student_facts(task, settings), settings, seed, Path())
    sources = [random_vectors(task, number) for number in range(TEACHERS)]
    bank = TeacherBank(sources, [1.0] * TEACHERS, settings.run.teacher_scores)
    taught = dataclasses.replace(plain, distill=settings.distill, teachers=bank, threshold=1.0)
    rows = []
    for name, run in (("plain step", plain), ("distilled step", taught)):
        tracing, compiling, reading = [], [], []
        with tempfile.TemporaryDirectory(prefix="prmkd-bench-") as folder, _cache(folder):
            for round_ in range(FEWEST + 1):
                traced, program = _lowered(run)
                with compiling_anew():
                    compiled = _compile(program)
                # Another one: what a program was compiled to stays with it.
                read = _compile(_lowered(run)[1])  # the first one writes
                if round_:
                    tracing.append(traced)
                    compiling.append(compiled)
                    reading.append(read)
        rows += [
            seconds_of(f"{name}, made and traced", tracing),
            seconds_of(f"{name}, compiled", compiling),
            seconds_of(f"{name}, from the cache", reading),
        ]
        say(f"{name}: {rows[-2].value:.3g} s to compile, {rows[-1].value:.3g} s from the cache")
    return rows


def _lowered(run: Run) -> tuple[float, jax.stages.Lowered]:
    """Seconds to make and trace a run's step, and the program."""
    # Without this, tracing would find what was traced before, and what that was compiled to.
    jax.clear_caches()
    started = time.perf_counter()
    program = lowered(run)
    return time.perf_counter() - started, program


def _compile(program: jax.stages.Lowered) -> float:
    started = time.perf_counter()
    program.compile()
    return time.perf_counter() - started


@contextmanager
def _cache(folder: str) -> Iterator[None]:
    """Uses a folder for compiled programs, however quickly they compile; then the former one."""
    changed = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_enable_compilation_cache": True,
    }
    before = {name: getattr(jax.config, name) for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
