"""python -m experiments.bench --flagfile=scientific.cfg: what a step and a ranking cost.

Measures the plain and the distilled training step (cached teachers, both ways of scoring),
one epoch and the ranking of all users, beside two floors: the operations that the step needs
at the machine's own matrix-product speed, and the bytes at its own copy speed. The teachers'
vectors are random ones of the configured widths, since the time doesn't depend on what is in them.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bridge.runtime import settle
from experiments.config import GROUPS, Settings, settings_from
from experiments.environment import describe_environment
from experiments.files import write_json
from experiments.flags import Group, as_dict, parse, run_command
from prmkd_jax.data.option import option, validate


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How long to measure, where to write."""

    repeats: int = option(40, "Steps timed, after the compiling one.", low=5)
    bench_file: str = option("runs/bench.json", "Result file.")

    def __post_init__(self):
        validate(self)


BENCH_GROUPS = (*GROUPS, Group("Benchmark", "", BenchConfig))


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    *configs, bench = parse(argv, BENCH_GROUPS, "python -m experiments.bench").configs
    settings = settings_from(tuple(configs))
    settle()
    from experiments.console import Reporter

    reporter = Reporter()
    measured = measure(settings, bench.repeats)
    for name, value in measured.items():
        reporter.say(f"{name:40s} {value:12.4g}")
    flags = as_dict(GROUPS, configs)
    content = {"environment": describe_environment(), "settings": flags, "measured": measured}
    write_json(Path(bench.bench_file), content)
    reporter.say(f"Written to {bench.bench_file}")


def measure(settings: Settings, repeats: int) -> dict[str, float]:
    """All measurements; seconds unless the name says otherwise."""
    import numpy as np

    from bridge.teacher_bank import TeacherBank, Vectors
    from experiments.pipeline import load_dataset
    from experiments.training import plain_run
    from prmkd_jax.data.splits import leave_one_out

    dataset = load_dataset(settings)
    split = leave_one_out(dataset.interactions)
    rng = np.random.default_rng(0)
    shapes = (len(dataset.interactions.items), dataset.num_items)
    widths = [settings.teachers.unisrec.hidden_size] * len(settings.run.teachers)
    vectors = [
        Vectors(
            name,
            1.0,
            *(rng.standard_normal((rows, width)).astype(np.float16) for rows in shapes),
        )
        for name, width in zip(settings.run.teachers, widths, strict=True)
    ]
    run = plain_run(dataset, split, settings, settings.run.seeds[0], Path())
    measured = machine_speed()
    measured |= _steps("plain", run, repeats)
    for side in ("jax", "torch"):
        bank = TeacherBank(vectors, [1.0] * len(vectors), side)
        distilled = dataclasses.replace(run, distill=settings.distill, teachers=bank, threshold=1.0)
        measured |= _steps(f"distilled ({side})", distilled, repeats)
        ratio = measured[f"distilled ({side}) step"] / measured["plain step"]
        measured[f"distilled ({side}) / plain step"] = ratio
    measured |= _ranking(run)
    return measured


def machine_speed() -> dict[str, float]:
    """The speed of a large float32 matrix product and of a large copy on this machine."""
    import jax
    import jax.numpy as jnp

    size = 2048
    matrix = jnp.ones((size, size), jnp.float32)
    product = _median(jax.jit(lambda x: x @ x), matrix)
    big = jnp.ones(2**26, jnp.float32)
    copy = _median(jax.jit(lambda x: x + 1.0), big)
    return {
        "machine GFLOP/s (float32 product)": 2 * size**3 / product / 1e9,
        "machine GB/s (read and write)": 2 * big.nbytes / copy / 1e9,
    }


def _steps(name: str, run: Any, repeats: int) -> dict[str, float]:
    """Compile time, step time and its floors, and a whole epoch with the host's work."""
    import itertools

    import jax

    from prmkd_jax.train.loop import (
        distill_inputs,
        drawing_input,
        fresh_student,
        training_batches,
    )
    from prmkd_jax.train.optim import make_optimizer
    from prmkd_jax.train.step import init_state, make_train_step

    graphdef, params = fresh_student(run)
    optimizer = make_optimizer(run.train)
    state = init_state(params, optimizer, run.seed)
    step = make_train_step(graphdef, optimizer, run.distill, run.student)
    known = drawing_input(run)
    inputs = itertools.cycle(distill_inputs(run, training_batches(run).epoch(0)))
    started = time.perf_counter()
    compiled = step.lower(state, *next(inputs), known).compile()
    compile_seconds = time.perf_counter() - started
    costs = compiled.cost_analysis() or {}
    times = []
    for _ in range(repeats + 1):
        batch = next(inputs)
        started = time.perf_counter()
        state, metrics = step(state, *batch, known)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - started)
    started = time.perf_counter()
    for batch in distill_inputs(run, training_batches(run).epoch(1)):
        state, metrics = step(state, *batch, known)
    jax.block_until_ready((state, metrics))
    quartiles = statistics.quantiles(times[1:], n=4)
    return {
        f"{name} compile": compile_seconds,
        f"{name} step": statistics.median(times[1:]),
        f"{name} step interquartile range": quartiles[2] - quartiles[0],
        f"{name} step GFLOP": costs.get("flops", 0.0) / 1e9,
        f"{name} step GB": costs.get("bytes accessed", 0.0) / 1e9,
        f"{name} epoch": time.perf_counter() - started,
    }


def _ranking(run: Any) -> dict[str, float]:
    from prmkd_jax.evaluate.evaluator import Evaluator
    from prmkd_jax.train.loop import fresh_student

    graphdef, params = fresh_student(run)
    evaluator = Evaluator(
        graphdef,
        run.dataset,
        run.split.test,
        run.max_seq_len,
        run.train.batch_size,
        run.train.eval_batch_size,
    )
    return {"ranking of all users": _median(evaluator, params, repeats=3)}


def _median(function: Callable[..., Any], *arguments: Any, repeats: int = 10) -> float:
    """Median seconds of a call, after one that compiles."""
    import jax

    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == "__main__":
    run_command(main)
