"""What ranking takes: `bench --suite=evaluate`: user vectors, item vectors, ranks, by users."""

from collections.abc import Callable
from pathlib import Path

from experiments.benchmarks.floors import machine_speeds
from experiments.benchmarks.timing import BenchRow, compiling_anew, once, repeated, seconds_of
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.train.loop import make_evaluator
from prmkd_jax.train.run import fresh_student

SHARES = (8, 4, 2, 1)


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """Seconds to rank all items for an eighth, a quarter, half and all of the test users."""
    task = load_task(settings)
    seed = settings.run.seeds[0]
    run = plain_run(task, student_facts(task, settings), settings, seed, Path())
    graphdef, params = fresh_student(run)
    speeds = machine_speeds()
    rows = []
    for share in SHARES:
        ids = task.split.test[: len(task.split.test) // share]
        evaluator = make_evaluator(run, graphdef, ids)
        with compiling_anew():
            first, times = repeated(lambda evaluator=evaluator: evaluator(params))
        rows.append(seconds_of("ranking", times, users=len(ids)))
        _, encoding = repeated(lambda evaluator=evaluator: evaluator.queries(params))
        rows.append(seconds_of("user vectors", encoding, users=len(ids)))
        rows.append(once("ranking, the first with its compilation", first[0], "s", users=len(ids)))
        products = 2 * len(ids) * task.dataset.num_items * settings.student.hidden_size
        floor = products / speeds.flops
        rows.append(once("scores, floor of the operations", floor, "s", users=len(ids)))
        say(f"{len(ids):,} users: {rows[-4].value:.3g} s")
    return rows
