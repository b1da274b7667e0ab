"""Composes the stages: data → teachers → students → results, and nothing else."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli.console import Reporter
from experiments.cli.flags import as_dict, as_flagfile
from experiments.cli.settings import GROUPS, Settings
from experiments.reporting.figures import figure_names, save_figures
from experiments.reporting.report import write_report
from experiments.reporting.tables import dataset_lines, print_results
from experiments.stages.data import second_domain
from experiments.stages.environment import describe_environment
from experiments.stages.exports import export, student_file_names, student_start
from experiments.stages.identity import run_identity
from experiments.stages.record import (
    SCHEMA_VERSION,
    describe_dataset,
    describe_student,
    describe_teacher,
    describe_timing,
    test_ranks,
)
from experiments.stages.run_folder import RunFolder, begin, examine, finish
from experiments.stages.students import Trained, make_bank, run_name, train_students
from experiments.stages.teachers import check_teachers, prepare_teachers
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import append_json_line, write_json, write_text
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import leave_one_out, require_parts
from prmkd_jax.data.synthetic import synthetic_dataset

STUDENTS, FIGURES, CHECKPOINTS = "students", "figures", "checkpoints"
REPORT, RESULTS, TIMING, RANKS = "report.html", "results.json", "timing.json", "ranks.npz"
CONFIG, FLAGFILE, LOG = "config.json", "flags.cfg", "log.jsonl"


def run_pipeline(
    settings: Settings, configs: Sequence[Any], reporter: Reporter, runtime: Sequence[str]
) -> dict[str, Any]:
    """Runs a whole study and leaves its files in `--output_dir`.

    A stopped run goes on there; of a finished one the results are shown again, and its files
    stay as they are. Everything is checked before anything is removed or written.

    Args:
        settings: what to do.
        configs: the same as parsed, in the order of `GROUPS`, for config.json and flags.cfg.
        reporter: where to tell of it.
        runtime: lines about memory and threads for the log.

    Returns:
        The results, as in results.json.

    Raises:
        UserError: on bad data or inputs, or if the folder is another run's.
    """
    output, seconds = Path(settings.run.output_dir), {}
    # Who repeats the run by its flagfile doesn't want to replace another one by it.
    configs = [dataclasses.replace(configs[0], overwrite=False), *configs[1:]]
    flags, environment = as_dict(GROUPS, configs), describe_environment()
    with _timed(seconds, "data"):
        dataset = load_dataset(settings)
        split = leave_one_out(dataset.interactions)
        # A wrong name is told now, not when the teachers are tuned.
        second_domain(settings, dataset)
    facts = describe_dataset(dataset, split)
    for line in dataset_lines(facts):
        reporter.say(line)
    start = student_start(settings, dataset, split)
    identity = run_identity(configs, settings, dataset, split)
    identity["settings"]["seeds"] = list(settings.run.seeds)
    folder = _examine(output, identity, settings)
    if folder.found == "finished":
        reporter.say(f"{output}: this run is finished; --output_dir=… makes another")
        return _show(output, reporter)
    check_teachers(dataset, split, settings)
    begin(folder)
    write_json(output / CONFIG, flags)
    write_text(output / FLAGFILE, as_flagfile(GROUPS, configs))

    def log(event: dict[str, Any]) -> None:
        append_json_line(output / LOG, {"time": time.time(), **event})

    log({"stage": "start", "environment": environment, "runtime": list(runtime), "data": facts})
    with _timed(seconds, "teachers"):
        teachers = prepare_teachers(dataset, split, settings, reporter, log)
    bank = make_bank(teachers, settings)
    students: dict[str, list[Trained]] = {}
    for variant, source in {"base": None, "prmkd": bank}.items():
        if variant == "base" or source is not None:
            with _timed(seconds, variant):
                students[variant] = train_students(
                    dataset,
                    split,
                    source,
                    settings,
                    output / CHECKPOINTS,
                    reporter,
                    log,
                    start=None if start is None else start.params,
                )
    name = settings.student.label
    export(output / STUDENTS, students, settings, dataset, split, start)
    results = {
        "schema_version": SCHEMA_VERSION,
        "dataset": facts,
        "environment": environment,
        "settings": flags,
        "teachers": {t.vectors.name: describe_teacher(t.card) for t in teachers},
        "students": {name: describe_student(students["base"], students.get("prmkd", []), bank)},
    }
    timing = {
        "stages": seconds,
        "teachers": {
            t.vectors.name: {"tune": t.card["seconds"], "encode": t.card["encode_seconds"]}
            for t in teachers
        },
        "students": {name: {v: describe_timing(trained) for v, trained in students.items()}},
    }
    _write_files(output, results, timing, students)
    finish(folder)
    print_results(reporter.console, results, timing, _shown(output))
    return results


def load_dataset(settings: Settings) -> Dataset:
    """The data set that `--dataset` names.

    Raises:
        UserError: if it isn't there, is damaged, or leaves nobody to be evaluated.
    """
    if settings.data.dataset == "synthetic":
        return synthetic_dataset(settings.data)
    dataset = read_dataset(Path(settings.data.data_dir), settings.data.dataset)
    require_parts(dataset.name, leave_one_out(dataset.interactions))
    return dataset


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Notes a stage's seconds, apart from the results: equal runs give equal results."""
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def _examine(output: Path, identity: dict[str, Any], settings: Settings) -> RunFolder:
    """Looks whether the run may write into its folder; changes nothing.

    Raises:
        UserError: another run's files are there, or somebody's own in the way.
    """
    run = settings.run
    names = [
        run_name(settings, seed, distilled=distilled)
        for distilled in ((False, True) if run.teachers else (False,))
        for seed in run.seeds
    ]
    files = [CONFIG, FLAGFILE, LOG, RESULTS, TIMING, RANKS, REPORT]
    files += [f"{CHECKPOINTS}/{name}/" for name in names]
    files += [f"{STUDENTS}/{name}/{file}" for name in names for file in student_file_names(run)]
    drawn = [f"{FIGURES}/{name}" for name in figure_names(settings.student.label)]
    return examine(output, identity, files, optional=drawn, overwrite=run.overwrite)


def _show(output: Path, reporter: Reporter) -> dict[str, Any]:
    """Prints what a finished run has found, out of its files.

    Raises:
        UserError: one of them is damaged.
    """
    found = []
    for path in (output / RESULTS, output / TIMING):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise UserError(
                f"{path}: found no JSON ({error}), expected a finished run's (delete the file; "
                "the same command writes it again)"
            ) from error
    results, timing = found
    print_results(reporter.console, results, timing, _shown(output))
    return results


def _shown(output: Path) -> dict[str, Path]:
    """What a file holds → the file, of those that people look for."""
    return {
        "report": output / REPORT,
        "results": output / RESULTS,
        "timing": output / TIMING,
        "test ranks": output / RANKS,
        "students": output / STUDENTS,
    }


def _write_files(
    output: Path,
    results: dict[str, Any],
    timing: dict[str, Any],
    students: dict[str, list[Trained]],
) -> None:
    """Writes what a finished run leaves beside its students."""
    # Every user's expected test rank, for anybody's own tests.
    ranks = {
        f"{variant}-seed{one.seed}": test_ranks(one).all_items
        for variant, trained in students.items()
        for one in trained
    }
    beside = output / "ranks.part.npz"
    np.savez_compressed(beside, allow_pickle=False, **ranks)
    beside.replace(output / RANKS)
    write_json(output / RESULTS, results)
    write_json(output / TIMING, timing)
    save_figures(output / FIGURES, results)
    write_report(output / REPORT, results, timing)
