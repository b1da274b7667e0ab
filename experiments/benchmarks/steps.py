"""python -m experiments.benchmarks.steps --flagfile=scientific.cfg: what a step and a ranking cost.

Measures the plain and the distilled training step (cached teachers, both ways of scoring, and
live ones), one epoch and the ranking of all users, beside two floors: the operations that the step
needs at the machine's own matrix-product speed, and the bytes at its own copy speed. Where
Recformer teaches, also how fast it reads. The cached vectors are random ones of the configured
widths and the live teachers are not tuned, since the time doesn't depend on what is in them.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge.runtime import settle
from experiments.cli.flags import Group, as_dict, parse, run_command
from experiments.cli.settings import GROUPS, Settings, settings_from
from experiments.stages.environment import describe_environment
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json
from prmkd_jax.common.options import option, validate

if TYPE_CHECKING:  # torch and jax must not be imported before settle()
    from prmkd_jax.data.batches import Batch
    from prmkd_jax.distill.teacher_scores import TeacherScores
    from teachers_torch.recformer.model import RecformerTeacher
    from teachers_torch.tuning import Teacher

LIVE_BATCHES = 5  # Recformer takes many seconds for one
INSTANCES_READ = 256  # of Recformer's: enough for batches of like length


@dataclasses.dataclass(frozen=True)
class BenchConfig:
    """How long to measure, where to write."""

    repeats: int = option(40, "Steps timed, after the compiling one.", low=5)
    bench_file: str = option("runs/bench.json", "Result file.", filled=True)

    def __post_init__(self):
        validate(self)


BENCH_GROUPS = (*GROUPS, Group("Benchmark", "", BenchConfig))


def main(argv: Sequence[str]) -> None:
    """Measures, prints and writes."""
    *configs, bench = parse(argv, BENCH_GROUPS, "python -m experiments.benchmarks.steps").configs
    settings = settings_from(tuple(configs))
    settle()
    from experiments.cli.console import Reporter

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
    from bridge.teacher_bank import TeacherBank, Vectors
    from experiments.stages.pipeline import load_dataset
    from experiments.stages.students import plain_run
    from prmkd_jax.data.splits import leave_one_out

    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
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
    teachers = _untuned_teachers(run, settings)
    measured["distilled (live) input"] = _live_input(run, settings, teachers)
    with_input = measured["distilled (torch) step"] + measured["distilled (live) input"]
    measured["distilled (live) with input / plain step"] = with_input / measured["plain step"]
    measured |= _ranking(run)
    for teacher in teachers:
        if teacher.name == "recformer":
            measured |= recformer_speed(teacher, split.train_end, settings.run.seeds[0])
    return measured


class LiveTeachers:
    """Teachers that encode every batch's instances anew: the source of scores without a cache.

    Only the items' vectors are kept, as whoever serves such a model does.
    """

    def __init__(self, teachers: Sequence["Teacher"]):
        self.names = tuple(teacher.name for teacher in teachers)
        self.default_weights = np.full(len(teachers), 1 / len(teachers))
        self._teachers = teachers
        self._items = [teacher.encode_items() for teacher in teachers]

    def for_batch(self, batch: "Batch", candidates: np.ndarray) -> "TeacherScores":
        """This batch's scores [K, B, C]; a row that asks for nothing is known to nobody."""
        import jax
        import torch

        from bridge.dlpack import to_jax
        from prmkd_jax.distill.teacher_scores import TeacherScores

        asked = np.flatnonzero(batch.real)
        shape = (len(self._teachers), len(batch.real), len(candidates))
        scores, available = torch.zeros(shape), torch.zeros(shape[1::-1], dtype=torch.bool)
        for k, (teacher, items) in enumerate(zip(self._teachers, self._items, strict=True)):
            users = teacher.encode_instances(batch.instance_ids[asked])
            scores[k, asked] = torch.from_numpy(teacher.score_scale * users @ items[candidates].T)
            available[asked, k] = torch.from_numpy(users.any(axis=1))
        crossed = TeacherScores(to_jax(scores).array, to_jax(available).array)
        return jax.device_put(crossed, jax.devices()[0])  # as the bank does


def _untuned_teachers(run: Any, settings: Settings) -> list[Any]:
    from teachers_torch.registry import build

    cache_dir = Path(settings.run.cache_dir)
    return [
        build(name, run.dataset, settings.teachers, cache_dir, lambda _: None)
        for name in settings.run.teachers
    ]


def _live_input(run: Any, settings: Settings, teachers: Sequence["Teacher"]) -> float:
    """Seconds to make a batch's input with teachers that are not cached."""
    from prmkd_jax.train.loop import distill_inputs, training_batches

    live = dataclasses.replace(
        run, distill=settings.distill, teachers=LiveTeachers(teachers), threshold=1.0
    )
    inputs = distill_inputs(live, training_batches(live).epoch(0))
    return _median(lambda: next(inputs)[1], repeats=LIVE_BATCHES)


def recformer_speed(
    teacher: "RecformerTeacher", train_end: np.ndarray, seed: int
) -> dict[str, float]:
    """Tokens a second, padding not counted, that Recformer encodes and that a tuning step reads.

    Args:
        teacher: need not be tuned.
        train_end: where each user's training part ends [users].
        seed: of the users, whose last training instance is read.
    """
    from teachers_torch.recformer.tune import add_gradients

    users = np.random.default_rng(seed).permutation(len(train_end))[:INSTANCES_READ]
    encoded = train_end[users]
    tuned = encoded[: teacher.config.batch_size]

    def tokens(instances: np.ndarray) -> int:
        return sum(len(teacher.reader.sequence(teacher.history(i)).ids) for i in instances)

    encoding = _median(lambda: teacher.encode_instances(encoded), repeats=LIVE_BATCHES)
    teacher.model.train()
    tuning = _median(lambda: add_gradients(teacher, tuned), repeats=LIVE_BATCHES)
    return {
        "recformer tokens an instance": tokens(encoded) / len(encoded),
        "recformer encoding tokens/s": tokens(encoded) / encoding,
        "recformer tuning tokens/s": tokens(tuned) / tuning,
    }


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
    """Compile time, seconds to make a step's input on the host (which training does meanwhile),
    step time and its floors, and a whole epoch with the host's work.
    """
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
    times, waits = [], []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        batch = next(inputs)
        waits.append(time.perf_counter() - started)
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
        f"{name} input": statistics.median(waits[1:]),
        f"{name} step": statistics.median(times[1:]),
        f"{name} step interquartile range": quartiles[2] - quartiles[0],
        f"{name} step GFLOP": costs.get("flops", 0.0) / 1e9,
        f"{name} step GB": costs.get("bytes accessed", 0.0) / 1e9,
        f"{name} epoch": time.perf_counter() - started,
    }


def _ranking(run: Any) -> dict[str, float]:
    from prmkd_jax.train.loop import fresh_student, make_evaluator

    graphdef, params = fresh_student(run)
    evaluator = make_evaluator(run, graphdef, run.split.test)
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
