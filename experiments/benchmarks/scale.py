"""How costs grow with items, users, history and width: `bench --suite=scale`.

One size at a time is varied around a base, on data made from nothing. Each curve gets the
exponent that fits it.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bridge.teacher_bank import TeacherBank
from experiments.benchmarks.made import made_task, made_teachers
from experiments.benchmarks.memory import WIDTH
from experiments.benchmarks.step_times import prepare
from experiments.benchmarks.timing import BenchRow, repeated, seconds_of
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.students.registry import MOST_SOFTMAX_ITEMS
from prmkd_jax.train.inputs import training_batches
from prmkd_jax.train.loop import make_evaluator
from prmkd_jax.train.run import Run, fresh_student

ITEMS = (1_000, 10_000, 100_000, 1_000_000)
USERS = (1_000, 10_000, 100_000, 1_000_000)
HISTORIES = (10, 50, 100, 500)
WIDTHS = (64, 128, 256, 400)
BASE_USERS, BASE_ITEMS, BASE_HISTORY = 10_000, 10_000, 10
RANKED = 512


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """The rows of all curves."""
    rows = []
    for row in _rows(settings, config):
        say(f"{row.name}, {dict(row.of)}: {row.value:.4g} {row.unit}")
        rows.append(row)
    return rows


def _rows(settings: Settings, config: BenchConfig) -> Iterator[BenchRow]:
    largest = config.largest
    for items in (size for size in ITEMS if size <= largest):
        with _made(settings, BASE_USERS, items, BASE_HISTORY) as run:
            sampled = _with(run, loss="sampled_softmax")
            lazy = _with(run, loss="sampled_softmax", lazy_adam=True)
            yield _step("distilled step, sampled softmax, lazy Adam", lazy, items=items)
            yield _step("distilled step, sampled softmax, Adam", sampled, items=items)
            if items <= MOST_SOFTMAX_ITEMS:
                yield _step(
                    "distilled step, softmax, Adam", _with(run, loss="softmax"), items=items
                )
            yield _ranking(f"ranking {RANKED} users", run, items=items)
    for users in (size for size in USERS if size <= largest):
        with _made(settings, users, BASE_ITEMS, BASE_HISTORY) as run:
            yield _step("distilled step", _with(run, loss="sampled_softmax"), users=users)
            yield _order("order of an epoch's batches", run, users=users)
    for history in HISTORIES:
        with _made(settings, BASE_USERS // 10, BASE_ITEMS, history) as run:
            yield _step("distilled step", _with(run, loss="sampled_softmax"), history=history)
    for width in WIDTHS:
        with _made(settings, BASE_USERS, BASE_ITEMS, BASE_HISTORY) as run:
            wide = _with(run, loss="sampled_softmax", hidden_size=width)
            yield _step("distilled step", wide, width=width)
            yield _ranking(f"ranking {RANKED} users", wide, width=width)


class _made:
    """A run on made data with three made teachers; its files are removed at the end."""

    def __init__(self, settings: Settings, users: int, items: int, history: int):
        self._sizes = users, items, users * history
        self._settings = settings
        self._folder = tempfile.TemporaryDirectory(prefix="prmkd-bench-")

    def __enter__(self) -> Run:
        task = made_task(*self._sizes)
        folder = Path(self._folder.name)
        sources = made_teachers(folder, task, 3, WIDTH)
        bank = TeacherBank(sources, [1.0] * 3, self._settings.run.teacher_scores)
        facts = student_facts(task, self._settings)
        run = plain_run(task, facts, self._settings, self._settings.run.seeds[0], folder)
        return dataclasses.replace(
            run, distill=self._settings.distill, teachers=bank, threshold=1.0
        )

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _with(run: Run, *, lazy_adam: bool = False, **student: object) -> Run:
    changed = dataclasses.replace(run.student, **student)  # type: ignore[arg-type]
    train = dataclasses.replace(run.train, lazy_adam=lazy_adam)
    return dataclasses.replace(run, student=changed, train=train)


def _step(name: str, run: Run, **of: int) -> BenchRow:
    return seconds_of(name, prepare(run).times().steps, **of)


def _ranking(name: str, run: Run, **of: int) -> BenchRow:
    graphdef, params = fresh_student(run)
    evaluator = make_evaluator(run, graphdef, run.task.split.test[:RANKED])
    _, times = repeated(lambda: evaluator(params))
    return seconds_of(name, times, **of)


def _order(name: str, run: Run, **of: int) -> BenchRow:
    """The host's part of an epoch that isn't a batch's: until the first one is there."""
    batches = training_batches(run)
    _, times = repeated(lambda: next(batches.epoch(0)))
    return seconds_of(name, times, **of)
