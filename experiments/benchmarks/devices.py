"""What each device does in a step, by the shape of the mesh: `bench --suite=devices`.

Counted in the compiled program of every shape of 1, 2, 4 and 8 devices that are here; what stands
in a loop counts once. Devices that a CPU simulates share its cores, so no seconds are told of them.
The teachers' vectors are random ones, since nothing here depends on values.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from jax.sharding import Mesh

from bridge.teacher_bank import TeacherBank
from experiments.benchmarks.collectives import collectives
from experiments.benchmarks.distill import random_vectors
from experiments.benchmarks.floors import xla_work
from experiments.benchmarks.step_times import Inputs
from experiments.benchmarks.timing import BenchRow, once, seconds_of
from experiments.cli.options import BenchConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.students import plain_run, student_facts
from prmkd_jax.common.errors import UserError
from prmkd_jax.ops.shards import DATA, MODEL
from prmkd_jax.students.tables import Tables, is_table, tables_of
from prmkd_jax.train.closed import closed_of, teachers_best
from prmkd_jax.train.inputs import Constants, distill_inputs, run_constants, training_batches
from prmkd_jax.train.optim import make_optimizer
from prmkd_jax.train.rows import lazy_tables
from prmkd_jax.train.run import Run, fresh_student
from prmkd_jax.train.sharding import arrange, divide, place_constants, place_inputs, place_state
from prmkd_jax.train.step import TrainState, init_state, make_train_step

COUNTS = (1, 2, 4, 8)
"""Numbers of devices."""


def measure(settings: Settings, config: BenchConfig, say: Callable[[str], None]) -> list[BenchRow]:
    """The plain and the distilled step's rows on every mesh, those of one name together.

    Raises:
        UserError: there is no teacher.
    """
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    plain, taught = _runs(settings)
    meshes = list(_meshes(plain, say))
    found = []
    for name, run in (("plain step", plain), ("distilled step", taught)):
        # The host's share is the same for all meshes.
        inputs, constants = _first_inputs(run), run_constants(run)
        for mesh in meshes:
            rows = list(_on_mesh(name, run, mesh, inputs, constants, config.repeats))
            told = (f"{row.value:.4g} {row.unit} {row.name.split(', ')[1]}" for row in rows[:4])
            say(f"{name} on {mesh.shape[DATA]}x{mesh.shape[MODEL]}: {', '.join(told)}")
            found += rows
    names = list(dict.fromkeys(row.name for row in found))
    return sorted(found, key=lambda row: names.index(row.name))


def _runs(settings: Settings) -> tuple[Run, Run]:
    """The plain and the distilled run."""
    task = load_task(settings)
    plain = plain_run(task, student_facts(task, settings), settings, settings.run.seeds[0], Path())
    count = len(settings.run.teachers)
    vectors = [random_vectors(task, k, settings.student.hidden_size) for k in range(count)]
    bank = TeacherBank(vectors, [1.0] * count, settings.run.teacher_scores)
    taught = dataclasses.replace(plain, distill=settings.distill, teachers=bank, threshold=1.0)
    if settings.distill.negatives == "closed":
        taught = dataclasses.replace(taught, best_items=teachers_best(taught))
    return plain, taught


def _meshes(run: Run, say: Callable[[str], None]) -> Iterator[Mesh]:
    """Every mesh of the devices here that can carry out a run; the others are said."""
    rows = math.gcd(training_batches(run).rows, run.train.batch_size)
    for data, model in sorted(itertools.product(COUNTS, COUNTS), key=math.prod):
        if data * model not in COUNTS or data * model > jax.device_count():
            continue
        if rows % data:
            say(f"{data}x{model} is left out: a batch's rows can't be divided by {data}")
        elif run.train.lazy_adam and model > 1:
            say(f"{data}x{model} is left out: with --lazy_adam tables can't be divided")
        else:
            yield arrange(data, model)


def _first_inputs(run: Run) -> Inputs:
    """The first batch; it makes its own joint scores where others find them made."""
    return next(distill_inputs(run, training_batches(run).epoch(0), closed_of(run)))


def _on_mesh(
    name: str, run: Run, mesh: Mesh, inputs: Inputs, constants: Constants, repeats: int
) -> Iterator[BenchRow]:
    simulated = jax.default_backend() == "cpu" and jax.device_count() > 1
    # One simulated device stands for one that wants all rows at once, as several of them do.
    in_blocks = False if simulated else None
    graphdef, params = fresh_student(run)
    tables, divided = tables_of(params, run.facts), divide(mesh, params, run.facts)
    optimizer, lazy = make_optimizer(run.train), lazy_tables(run)
    step = make_train_step(
        graphdef, optimizer, run.distill, run.student, mesh, lazy, divided.tables, in_blocks
    )
    state = place_state(divided, init_state(params, optimizer, run.seed))
    given = (*place_inputs(mesh, *inputs), place_constants(mesh, constants))
    compiled = step.lower(state, *given).compile()
    of = {DATA: mesh.shape[DATA], MODEL: mesh.shape[MODEL]}
    sent = sum(each.sent for each in collectives(compiled.as_text() or "", mesh.size))
    yield once(f"{name}, operations", xla_work(compiled).flops / 1e9, "GFLOP", **of)
    yield once(f"{name}, sent", sent / 1e6, "MB", **of)
    held = compiled.memory_analysis()
    if held is not None:
        yield once(f"{name}, arguments", held.argument_size_in_bytes / 1e6, "MB", **of)
        yield once(f"{name}, temporaries", held.temp_size_in_bytes / 1e6, "MB", **of)
    yield once(f"{name}, largest table", _longest(tables, state, given[-1]), "rows", **of)
    if not simulated:
        seconds = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            state, metrics = compiled(state, *given)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - started)
        yield seconds_of(f"{name}, seconds", seconds[1:], **of)


def _longest(tables: Tables, state: TrainState, constants: Constants) -> int:
    """Most rows that one device has of a table: the student's of items or users, or a teacher's."""
    own = jax.tree_util.tree_leaves_with_path(state.params)
    arrays = [leaf for path, leaf in own if is_table(path, tables)]
    if constants.tables is not None:
        arrays += jax.tree.leaves((constants.tables.instances, constants.tables.items))
    return max(len(array.addressable_shards[0].data) for array in arrays)
