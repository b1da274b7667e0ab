"""What a large catalogue takes: `bench --suite=memory`.

One distilled epoch and a ranking, on data and teachers made from nothing, with the seconds of
each stage and the most memory that the process has held by its end.
"""

import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bridge.teacher_bank import TeacherBank
from experiments.benchmarks.made import made_task, made_teachers
from experiments.benchmarks.timing import BenchRow, once
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.train.calibrate import calibrate_threshold
from prmkd_jax.train.loop import make_evaluator, train

TEACHERS, WIDTH = 3, 64
_EVERY = 0.2  # seconds between two looks at the memory


class StageCosts(NamedTuple):
    """One stage.

    Attributes:
        name: the name of the stage.
        seconds: how long it took.
        own: most bytes held until its end that are the process's own (anonymous), in GiB.
        resident: the same with mapped files, which the system takes back when it needs room.
    """

    name: str
    seconds: float
    own: float
    resident: float

    def rows(self) -> list[BenchRow]:
        """The three figures."""
        return [
            once(self.name, self.seconds, "s"),
            once(f"{self.name}: own memory until its end", self.own, "GiB"),
            once(f"{self.name}: with mapped files", self.resident, "GiB"),
        ]


class _Watch:
    """Looks at the process's memory while stages run."""

    def __init__(self, say: Callable[[str], None]):
        self.stages: list[StageCosts] = []
        self._say = say
        self._own = self._resident = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage and notes it."""
        started = time.perf_counter()
        yield
        self._read()
        seconds = time.perf_counter() - started
        stage = StageCosts(name, seconds, self._own, self._resident)
        self.stages.append(stage)
        self._say(
            f"{name:36s} {seconds:8.1f} s   {stage.own:6.2f} GiB own   "
            f"{stage.resident:6.2f} GiB with mapped files"
        )

    def _look(self) -> None:
        while not self._stop.wait(_EVERY):
            self._read()

    def _read(self) -> None:
        own, mapped = _held()
        self._own = max(self._own, own)
        self._resident = max(self._resident, own + mapped)


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """Seconds of each stage, and the most memory until its end.

    Args:
        settings: the student, its training and its distillation.
        config: the size.
        say: takes a line.

    Raises:
        UserError: settings that don't fit so many items.
    """
    with tempfile.TemporaryDirectory(prefix="prmkd-bench-") as name, _Watch(say) as watch:
        folder = Path(name)
        with watch.stage("data"):
            task = made_task(config.made_users, config.made_items, config.made_interactions)
        with watch.stage(f"{TEACHERS} teachers' vectors"):
            sources = made_teachers(folder, task, TEACHERS, WIDTH)
            bank = TeacherBank(sources, [1.0] * len(sources), settings.run.teacher_scores)
        with watch.stage("facts"):
            facts = student_facts(task, settings)
            run = plain_run(task, facts, settings, settings.run.seeds[0], folder / "states")
            run = dataclasses.replace(run, distill=settings.distill, teachers=bank, epochs=1)
        with watch.stage("threshold"):
            run = dataclasses.replace(run, threshold=calibrate_threshold(run))
        with watch.stage("one distilled epoch"):
            trained = train(run, on_step=_every_tenth(say))
        ranked = task.split.test[: config.made_ranked]
        with watch.stage(f"ranking of {len(ranked):,} users"):
            ranks = make_evaluator(run, trained.graphdef, ranked)(trained.params)
    record = trained.progress.history[-1]
    say(f"loss {record['loss']:.3f}; NDCG@10 {ranking_metrics(ranks.all_items)['NDCG@10']:.5f}")
    return [row for stage in watch.stages for row in stage.rows()]


def _every_tenth(say: Callable[[str], None]) -> Callable[[int, int], None]:
    def on_step(step: int, steps: int) -> None:
        if step % max(1, steps // 10) == 0:
            say(f"  step {step:,} of about {steps:,}")

    return on_step


def _held() -> tuple[float, float]:
    """GiB of the process's own memory and of mapped files; 0 where the system doesn't tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in status.splitlines())
    own, mapped = (int(fields[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile"))
    return own, mapped
