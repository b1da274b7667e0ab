"""The body of `portability`: one student after another through all comparisons."""

import dataclasses
import functools
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from bridge.runtime import available_cores
from experiments.benchmarks.columns import require_columns
from experiments.benchmarks.portability.ceilings import DEVICES, RATES
from experiments.benchmarks.portability.curves import every_arithmetic, gaps, train_all
from experiments.benchmarks.portability.kept import finished, identity, libtpu_version
from experiments.benchmarks.portability.lowering import (
    compile_for_tpu,
    compile_here,
    differences,
    exported_bytes,
    lower,
)
from experiments.benchmarks.portability.precision import deviations
from experiments.benchmarks.portability.programs import Case, JaxProgram, make_case
from experiments.benchmarks.portability.side_by_side import in_processes
from experiments.benchmarks.portability.tables import figure, markdown
from experiments.benchmarks.portability.work import work_of
from experiments.cli.command import Call
from experiments.cli.flags import as_dict
from experiments.cli.options import PortabilityConfig
from experiments.cli.settings import Settings
from experiments.stages.data import load_task
from experiments.stages.environment import describe_environment
from prmkd_jax.common.errors import UserError, first_line, printable
from prmkd_jax.common.files import write_json, write_text
from prmkd_jax.common.places import require_place
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.task import Task

FILES = ("portability.json", "portability.md", "portability.svg")
# Each holds up to a few GB while it compiles.
_MOST_AT_ONCE = 4
# The small world of precisions and curves: (users, items), width, batch.
_WORLD, _WIDTH, _BATCH = (400, 240), 32, 256


def run(call: Call) -> None:
    """Compares, prints, and writes `portability.json`, `.md` and `.svg` into --output_dir.

    Raises:
        UserError: as `compare`, or the place can't be written to.
        SystemExit: with status 1 where a student failed, after all is written.
    """
    config = call.config(PortabilityConfig)
    folder = Path(call.settings.run.output_dir)
    require_place(folder, "--output_dir")
    content = {
        "environment": describe_environment(),
        "settings": as_dict(call.command.groups, call.configs),
        "devices": [dataclasses.asdict(device) for device in DEVICES],
        "here": [f"{each.platform} {each.device_kind}" for each in jax.devices()],
        "tpu_compiler": libtpu_version(),
        "students": compare(call.settings, config, call),
    }
    failed = [each["student"] for each in content["students"] if "failed" in each]
    text = markdown(content)
    written = {FILES[1]: text}
    if len(failed) < len(config.students):
        written[FILES[2]] = figure(content)
    write_json(folder / FILES[0], content)
    for name, each in written.items():
        write_text(folder / name, each)
    call.reporter.say(text)
    call.reporter.say(f"Written to {folder}: {', '.join((FILES[0], *written))}")
    if failed:
        raise SystemExit(
            f"error: {len(failed)} of {len(config.students)} students failed: "
            f"{', '.join(failed)} ({folder / FILES[0]} says where); the same command tries them "
            "again and keeps the others"
        )


def compare(settings: Settings, config: PortabilityConfig, call: Call) -> list[dict[str, Any]]:
    """All figures, one entry a student; of one that failed what was raised, and where.

    Raises:
        UserError: there is no teacher, or `--negatives` is closed.
    """
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    require_columns(settings, "portability")
    depends_on = identity(call, load_task(settings))
    make = functools.partial(_finished, settings, config, depends_on)
    at_once = _at_once(len(config.students))
    if at_once == 1:
        found = ((name, make(name)) for name in config.students)
    else:
        found = in_processes(make, config.students, at_once)
    entries = {}
    for name, entry in found:
        entries[name] = entry or {"student": name, "failed": "its process was killed"}
        if "failed" in entries[name]:
            call.reporter.warn(f"{name}: {entries[name]['failed']}")
        else:
            call.reporter.say(f"{name}: compared in {entries[name]['seconds']:.0f} s")
    return [entries[name] for name in config.students]


def _at_once(students: int) -> int:
    """How many students are compared together: compiling, most of the work, takes one core each."""
    # A TPU serves one process.
    if jax.devices()[0].platform == "tpu":
        return 1
    return min(students, available_cores(), _MOST_AT_ONCE)


def _finished(
    settings: Settings, config: PortabilityConfig, depends_on: dict[str, object], name: str
) -> dict[str, object]:
    """One student's entry, from its file if it has one; whatever it raises stands there instead.

    So the other students' figures aren't lost, and the same command tries this one again.
    """
    folder = Path(settings.run.output_dir)
    try:
        return finished(folder, name, depends_on, lambda: _compared(settings, config, name))
    except Exception as error:
        return {
            "student": name,
            "failed": f"{type(error).__name__}: {printable(first_line(error))[:200]}",
            "traceback": "".join(traceback.format_exception(error)).splitlines(),
        }


def _compared(settings: Settings, config: PortabilityConfig, name: str) -> dict[str, object]:
    """One student's entry, made."""
    started = time.perf_counter()
    entry: dict[str, Any] = {"student": name, "programs": {}}
    world = load_task(settings)
    for program in make_case(world, settings, name).programs():
        entry["programs"][program.name] = describe_program(program, config.platforms)
    if libtpu_version() and "tpu" in config.platforms:
        batch_size = min(config.tpu_batch_size, settings.train.batch_size)
        train = dataclasses.replace(settings.train, batch_size=batch_size)
        fewer = make_case(world, dataclasses.replace(settings, train=train), name)
        for program in fewer.programs():
            compiled = {**compile_for_tpu(program)._asdict(), "batch_size": batch_size}
            entry["programs"][program.name]["compiled"]["tpu"] = compiled
    small = small_settings(settings)
    task = load_task(small)
    exact = make_case(task, _without_dropout(small), name)
    entry["precision"] = [each._asdict() for each in deviations(exact)]
    entry["curves"], entry["gaps"] = _curves(task, small, name, config)
    entry["seconds"] = time.perf_counter() - started
    return entry


def describe_program(program: JaxProgram, platforms: Sequence[str]) -> dict[str, object]:
    """One program on all platforms, its work, its memory, its least seconds on each device."""
    lowered = lower(program, platforms)
    work = work_of(program.traced.jaxpr)
    compiled = {jax.devices()[0].platform: compile_here(program)}
    memory = {name: each.memory for name, each in compiled.items()}
    fallback = next(iter(memory.values()))
    return {
        "exported_bytes": exported_bytes(program, platforms),
        "operations": {name: sum(each.operations.values()) for name, each in lowered.items()},
        "custom_calls": {name: each.custom_calls for name, each in lowered.items()},
        "differences": differences(lowered),
        "work": work._asdict(),
        "compiled": {name: each._asdict() for name, each in compiled.items()},
        "seconds": {
            device.name: {
                "computing": {kind: work.products / device.rates[kind] for kind in RATES},
                "moving": work.moved / device.bandwidth,
                "least_moving": work.least / device.bandwidth,
            }
            for device in DEVICES
        },
        "memory_share": {
            device.name: memory.get(device.platform, fallback) / device.memory for device in DEVICES
        },
    }


def small_settings(settings: Settings) -> Settings:
    """The settings with the small world, a small student and small batches."""
    users, items = _WORLD
    data = DataConfig(
        synthetic_users=users, synthetic_items=items, max_seq_len=min(20, settings.data.max_seq_len)
    )
    sizes = {
        "hidden_size": _WIDTH,
        "inner_size": _WIDTH,
        "gru_size": 0,
        "mlp_sizes": (_WIDTH, _WIDTH),
    }
    student = dataclasses.replace(settings.student, second_domain="", **sizes)
    train = dataclasses.replace(settings.train, batch_size=_BATCH, learning_rate=3e-3)
    return dataclasses.replace(settings, data=data, student=student, train=train)


def _without_dropout(settings: Settings) -> Settings:
    return dataclasses.replace(settings, student=dataclasses.replace(settings.student, dropout=0.0))


def _curves(
    task: Task, settings: Settings, name: str, config: PortabilityConfig
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    if not config.curve_epochs:
        return [], []

    def make(seed: int) -> Case:
        return make_case(task, settings, name, seed)

    curves = train_all(
        make, config.curve_seeds, config.curve_epochs, every_arithmetic(jax.devices()[0])
    )
    return [each._asdict() for each in curves], [each._asdict() for each in gaps(curves)]
