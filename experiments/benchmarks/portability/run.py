"""The body of `portability`: one student after another through all comparisons."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.portability.ceilings import DEVICES, RATES
from experiments.benchmarks.portability.curves import ROUNDINGS, gaps, train_all
from experiments.benchmarks.portability.lowering import (
    compile_for_tpu,
    compile_here,
    differences,
    exported_bytes,
    has_tpu_compiler,
    lower,
)
from experiments.benchmarks.portability.precision import deviations
from experiments.benchmarks.portability.programs import Case, Program, make_case
from experiments.benchmarks.portability.tables import figure, markdown
from experiments.benchmarks.portability.work import work_of
from experiments.cli.command import Call
from experiments.cli.flags import as_dict
from experiments.cli.options import PortabilityConfig
from experiments.cli.settings import GROUPS, Settings
from experiments.stages.data import load_task
from experiments.stages.environment import describe_environment
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import require_place, write_json, write_text
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.task import Task

FILES = ("portability.json", "portability.md", "portability.svg")
# The small world of precisions and curves: (users, items), width, batch.
_WORLD, _WIDTH, _BATCH = (400, 240), 32, 256


def run(call: Call) -> None:
    """Compares, prints, and writes `portability.json`, `.md` and `.svg` into --output_dir."""
    config = call.config(PortabilityConfig)
    folder = Path(call.settings.run.output_dir)
    require_place(folder, "--output_dir")
    content = {
        "environment": describe_environment(),
        "settings": as_dict(GROUPS, call.configs),
        "devices": [dataclasses.asdict(device) for device in DEVICES],
        "here": [f"{each.platform} {each.device_kind}" for each in jax.devices()],
        "tpu_compiler": has_tpu_compiler(),
        "students": compare(call.settings, config, call),
    }
    write_json(folder / FILES[0], content)
    text = markdown(content)
    write_text(folder / FILES[1], text)
    write_text(folder / FILES[2], figure(content))
    call.reporter.say(text)
    call.reporter.say(f"Written to {folder}: {', '.join(FILES)}")


def compare(settings: Settings, config: PortabilityConfig, call: Call) -> list[dict[str, Any]]:
    """All figures, one entry a student.

    Raises:
        UserError: there is no teacher.
    """
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    task = load_task(settings)
    small = small_settings(settings)
    small_task = load_task(small)
    found = []
    for name in config.students:
        started = time.perf_counter()
        case = make_case(task, settings, name)
        entry: dict[str, Any] = {"student": name, "programs": {}}
        for program in case.programs():
            entry["programs"][program.name] = describe_program(program, config.platforms)
        exact = make_case(small_task, _without_dropout(small), name)
        entry["precision"] = [each._asdict() for each in deviations(exact)]
        entry["curves"], entry["gaps"] = _curves(small_task, small, name, config)
        entry["seconds"] = time.perf_counter() - started
        call.reporter.say(f"{name}: compared in {entry['seconds']:.0f} s")
        found.append(entry)
    return found


def describe_program(program: Program, platforms: Sequence[str]) -> dict[str, Any]:
    """One program on all platforms, its work, its memory, its least seconds on each device."""
    lowered = lower(program, platforms)
    work = work_of(program.traced())
    compiled = {jax.devices()[0].platform: compile_here(program)}
    if has_tpu_compiler() and "tpu" in platforms:
        compiled["tpu"] = compile_for_tpu(program)
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
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    if not config.curve_epochs:
        return [], []

    def make(seed: int) -> Case:
        return make_case(task, settings, name, seed)

    curves = train_all(make, config.curve_seeds, config.curve_epochs, list(ROUNDINGS))
    return [each._asdict() for each in curves], [each._asdict() for each in gaps(curves)]
