"""Our student as a peer of the others: a process of its own, timed by the same protocol.

python -m experiments.benchmarks.peers.ours settings.json
"""

import time
from pathlib import Path
from typing import Any

from bridge.runtime import settle
from experiments.benchmarks.peers.protocol import METRIC, Clocked, Settings, Timed, drive
from experiments.benchmarks.peers.teachers import read_vectors

if __name__ == "__main__":
    settle()  # before JAX is imported

import dataclasses

import jax

from bridge.teacher_bank import TeacherBank
from bridge.teacher_vectors import Vectors
from experiments.cli.flags import parse
from experiments.cli.settings import GROUPS, settings_from
from experiments.stages.data import load_task
from experiments.stages.environment import describe_environment
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.evaluate.evaluator import Evaluator
from prmkd_jax.evaluate.metrics import ranking_metrics
from prmkd_jax.train.inputs import distill_inputs, run_constants, training_batches
from prmkd_jax.train.loop import make_evaluator
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.rows import lazy_tables
from prmkd_jax.train.run import Run, fresh_student
from prmkd_jax.train.sharding import make_mesh, place, place_inputs
from prmkd_jax.train.step import init_state, make_train_step

_IN_FLIGHT = 4


class Ours:
    """A run of ours, epoch by epoch, as `train.loop` does it."""

    def __init__(self, run: Run):
        self._run, self._epoch = run, 0
        self._graphdef, params = fresh_student(run)
        optimizer, self._mesh = make_optimizer(run.train), make_mesh(1)
        self._state = place(self._mesh, init_state(params, optimizer, run.seed))
        self._constants = place(self._mesh, run_constants(run))
        self._step = make_train_step(
            self._graphdef, optimizer, run.distill, run.student, self._mesh, lazy_tables(run)
        )
        self._batches = training_batches(run)
        self._evaluators: dict[str, Evaluator] = {}
        self._kept: Any = None

    def epoch(self, most: float) -> Timed:
        """See `protocol.Peer`."""
        started = time.perf_counter()
        clock = Clocked(self._batches.steps_about, most)
        waiting = []
        for batch in clock(distill_inputs(self._run, self._batches.epoch(self._epoch))):
            inputs = place_inputs(self._mesh, *batch)
            self._state, metrics = self._step(self._state, *inputs, self._constants)
            waiting.append(metrics.loss)
            if len(waiting) > _IN_FLIGHT:
                waiting.pop(0).block_until_ready()
        jax.block_until_ready(self._state)
        self._epoch += 1
        return clock.timed(time.perf_counter() - started)

    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """See `protocol.Peer`; never stopped."""
        if part not in self._evaluators:
            ids = getattr(self._run.task.split, part)
            self._evaluators[part] = make_evaluator(self._run, self._graphdef, ids)
        started = time.perf_counter()
        ranks = self._evaluators[part](self._state.params)
        seconds = time.perf_counter() - started
        metrics = ranking_metrics(ranks.all_items)
        return Timed(seconds, 1.0, 1), {name: metrics[name] for name in ("Recall@10", METRIC)}

    def keep(self) -> None:
        """See `protocol.Peer`."""
        self._kept = jax.device_get(self._state.params)

    def restore(self) -> None:
        """See `protocol.Peer`."""
        self._state = self._state.replace(params=self._kept)


def make(told: Settings) -> Ours:
    """Our student for the flags `flags`, distilled from the vectors in `teachers` if named."""
    settings = settings_from(parse(told["flags"], GROUPS).configs)
    task = load_task(settings)
    seed = settings.run.seeds[0]
    run = plain_run(task, student_facts(task, settings), settings, seed, Path())
    if told["teachers"]:
        vectors = read_vectors(Path(told["teachers"]))
        sources = [Vectors(f"teacher{k}", 1.0, *pair) for k, pair in enumerate(vectors)]
        bank = TeacherBank(sources, [1.0] * len(sources), settings.run.teacher_scores)
        run = dataclasses.replace(run, distill=settings.distill, teachers=bank, threshold=1.0)
    return Ours(run)


def versions() -> dict[str, str]:
    """Of what computes."""
    return {name: str(describe_environment()[name]) for name in ("jax", "git_commit")}


if __name__ == "__main__":
    drive(make, versions)
