"""What a request costs: `bench --suite=serve`, the columns of the paper's Table 4.

The plain and the distilled student take turns, so what else the machine does meets both alike.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from flax import nnx

from experiments.benchmarks.serve_models import (
    MeasuredTeacher,
    Requests,
    Served,
    measure_teacher,
    read_student,
    requests,
    serve_student,
    serve_teacher,
)
from experiments.benchmarks.serve_tables import markdown
from experiments.benchmarks.timing import clocked, take_turns
from experiments.cli.command import Call
from experiments.cli.flags import as_dict
from experiments.cli.options import BenchConfig
from experiments.cli.settings import GROUPS, Settings
from experiments.reporting.costs import CostFigures, Latency, Middle, ModelSize, Ratio, ServeCosts
from experiments.stages.data import load_task
from experiments.stages.environment import describe_environment
from experiments.stages.students import student_facts
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.files import write_json, write_text
from prmkd_jax.data.task import Task
from prmkd_jax.serve.exported import Exported, export_student
from prmkd_jax.students.student import create_student
from teachers_torch.registry import kind
from teachers_torch.teacher import gives_scores

PLAIN, DISTILLED = "plain student", "distilled student"
_LEAST_CALLS, _MOST_CALLS = 5, 2000


def run(call: Call) -> None:
    """Measures, prints, and writes `bench-serve.json` and `bench-serve.md` into --output_dir."""
    config, folder = call.config(BenchConfig), Path(call.settings.run.output_dir)
    content: ServeCosts = {
        "environment": describe_environment(),
        "settings": as_dict(GROUPS, call.configs),
        **measure(call.settings, config, call.reporter.say),
    }
    write_json(folder / "bench-serve.json", content)
    text = markdown(content)
    write_text(folder / "bench-serve.md", text)
    call.reporter.say(text)
    call.reporter.say(f"Written to {folder / 'bench-serve.json'} and bench-serve.md")


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> CostFigures:
    """All figures, as JSON content: `models`, `latencies`, `ratios`, and the `ratio` of all rounds.

    A ratio is the distilled student's time by the plain one's in the same round.

    Raises:
        UserError: an export can't be read, or a catalogue is smaller than a student's own.
    """
    task = load_task(settings)
    with tempfile.TemporaryDirectory(prefix="prmkd-bench-") as name:
        students = _students(settings, config, task, Path(name))
    batches = [requests(task, count, settings.run.seeds[0]) for count in config.batches]
    largest = max(batches, key=lambda asked: len(asked.instances))
    built = [_teacher(name, task, settings, largest, say) for name in settings.run.teachers]
    teachers = [teacher for teacher in built if teacher is not None]
    models: list[ModelSize] = []
    latencies: list[Latency] = []
    ratios: list[Ratio] = []
    compared: list[np.ndarray] = []
    for catalogue in sorted(config.catalogues):
        say(f"{catalogue} items")
        pair = [serve_student(name, *student, catalogue) for name, student in students.items()]
        models += map(_described, pair)
        for asked in batches:
            times = time_in_turns([each.ask(asked) for each in pair], config.seconds)
            latencies += [_latency(each, asked, t) for each, t in zip(pair, times, strict=True)]
            compared.append(times[1] / times[0])
            place = {"items": pair[0].catalogue, "batch": len(asked.instances)}
            ratios.append(Ratio(**place, **_middle(compared[-1])))
        del pair  # a million rows twice: the next catalogue's come
        for measured in teachers:
            found = serve_teacher(measured, catalogue)
            models += map(_described, found)
            for asked in batches:
                (times,) = time_in_turns([found[0].ask(asked)], config.seconds)
                latencies += [_latency(each, asked, times + each.added) for each in found]
    every = _middle(np.concatenate(compared))
    return {"models": models, "latencies": latencies, "ratios": ratios, "ratio": every}


def time_in_turns(calls: Sequence[Callable[[], object]], seconds: float) -> list[np.ndarray]:
    """Times calls in turn.

    Args:
        calls: the calls to be timed; each is called once before.
        seconds: time for each call; at least 5 and at most 2,000 rounds.

    Returns:
        each call's seconds, one a round.
    """
    for call in calls:
        call()
    timed = [functools.partial(clocked, call) for call in calls]
    return [np.array(each) for each in take_turns(timed, _rounds(seconds * len(calls)))]


def _rounds(seconds: float) -> Iterator[int]:
    """Counts rounds until the time is over."""
    end = time.perf_counter() + seconds
    for number in range(_MOST_CALLS):
        if number >= _LEAST_CALLS and time.perf_counter() > end:
            return
        yield number


def _students(
    settings: Settings, config: BenchConfig, task: Task, folder: Path
) -> dict[str, tuple[Exported, int]]:
    """Name → the export and its bytes: given ones, or fresh ones of random weights."""
    folders = {PLAIN: Path(config.plain), DISTILLED: Path(config.distilled)}
    if not config.plain:
        facts = student_facts(task, settings)
        folders = {name: folder / name.split()[0] for name in folders}
        for seed, place in enumerate(folders.values()):
            params = nnx.to_pure_dict(create_student(settings.student, facts, seed)[1])
            export_student(place, params, settings.student, facts, task.dataset)
    return {name: read_student(place) for name, place in folders.items()}


def _teacher(
    name: str, task: Task, settings: Settings, asked: Requests, say: Callable[[str], None]
) -> MeasuredTeacher | None:
    """A teacher to be timed; None for one that gives scores, which has no vectors to search."""
    found = kind(name)
    cache = Cache(Path(settings.run.cache_dir))
    teacher = found.build(task, settings.teachers, cache, lambda _: None)
    if gives_scores(teacher):
        say(f"{found.label}: left out, it gives scores and has no vectors to search")
        return None
    return measure_teacher(teacher, found.label, asked)


def _described(served: Served) -> ModelSize:
    return {
        "model": served.name,
        "items": served.catalogue,
        "item_vectors": "cached" if served.cached else "recomputed",
        "file_bytes": served.file_bytes,
        "parameters": served.parameters,
        "bytes_held": served.bytes,
        "flops_per_request": served.flops,
        "seconds_for_item_vectors": served.added,
    }


def _latency(served: Served, asked: Requests, seconds: np.ndarray) -> Latency:
    p50, p90, p99 = np.percentile(seconds * 1000, [50, 90, 99]).round(4).tolist()
    return {
        "model": served.name,
        "item_vectors": "cached" if served.cached else "recomputed",
        "items": served.catalogue,
        "batch": len(asked.instances),
        "calls": len(seconds),
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
    }


def _middle(ratios: np.ndarray) -> Middle:
    """Median of the rounds' ratios, and its 95 % interval by the ranks of a fair coin."""
    ordered = np.sort(ratios)
    reach = 1.96 * len(ordered) ** 0.5 / 2
    low, high = round(len(ordered) / 2 - reach) - 1, round(len(ordered) / 2 + reach)
    return {
        "ratio": round(float(np.median(ordered)), 4),
        "low": round(float(ordered[max(low, 0)]), 4),
        "high": round(float(ordered[min(high, len(ordered) - 1)]), 4),
    }
