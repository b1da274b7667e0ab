"""Composes the stages: data → teachers → students → results, and nothing else."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli.console import Reporter
from experiments.cli.flags import as_dict, as_flagfile
from experiments.cli.settings import GROUPS, Settings
from experiments.reporting.figures import save_figures
from experiments.reporting.report import write_report
from experiments.reporting.tables import dataset_lines, print_results
from experiments.stages.data import second_domain
from experiments.stages.environment import describe_environment
from experiments.stages.exports import export, student_start
from experiments.stages.record import (
    SCHEMA_VERSION,
    describe_dataset,
    describe_student,
    describe_teacher,
    describe_timing,
    test_ranks,
)
from experiments.stages.students import Trained, make_bank, train_students
from experiments.stages.teachers import prepare_teachers
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import append_json_line, write_json, write_text
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import leave_one_out, require_parts
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.students.registry import result_name

STUDENTS, FIGURES = "students", "figures"
REPORT, RESULTS, TIMING, RANKS = "report.html", "results.json", "timing.json", "ranks.npz"
# What may differ between a stopped run and the one that resumes it.
_FREE = ("resume", "output_dir", "cache_dir", "data_dir")


def run_pipeline(
    settings: Settings, configs: Sequence[Any], reporter: Reporter, runtime: Sequence[str]
) -> dict[str, Any]:
    """Runs a whole study and leaves its files in `--output_dir`.

    Args:
        settings: what to do.
        configs: the same as parsed, in the order of `GROUPS`, for config.json and flags.cfg.
        reporter: where to tell of it.
        runtime: lines about memory and threads for the log.

    Returns:
        The results, as in results.json.

    Raises:
        UserError: on bad data or on settings that differ from the run to be resumed.
    """
    output, seconds = Path(settings.run.output_dir), {}
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
    _open_output(output, flags, as_flagfile(GROUPS, configs), settings.run.resume)

    def log(event: dict[str, Any]) -> None:
        append_json_line(output / "log.jsonl", {"time": time.time(), **event})

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
                    output / "checkpoints",
                    reporter,
                    log,
                    start=None if start is None else start.params,
                )
    name = result_name(settings.student)
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
    files = _write_files(output, results, timing, students)
    print_results(reporter.console, results, timing, files)
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


def _open_output(output: Path, flags: dict[str, Any], flagfile: str, resume: bool) -> None:
    """Writes what was asked for; a resumed run must ask for the same.

    Raises:
        UserError: naming the first flag that differs, or if there is nothing to resume.
    """
    path = output / "config.json"
    if resume:
        if not path.is_file():
            raise UserError(f"--resume: found no {path}, expected the folder of a stopped run")
        before = json.loads(path.read_text())
        for name in sorted(set(flags) | set(before)):
            if name not in _FREE and flags.get(name) != before.get(name):
                raise UserError(
                    f"--{name}: found {flags.get(name)!r}, expected {before.get(name)!r} "
                    f"as in {path}, the run to be resumed"
                )
    else:
        # A later --resume must not find the states of an earlier run.
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
        (output / "log.jsonl").unlink(missing_ok=True)
        if path.is_file():
            # An earlier run's would be taken for this one's, if this one is stopped. Students
            # stay: each has a card that says what it is.
            shutil.rmtree(output / FIGURES, ignore_errors=True)
            for file in (RESULTS, TIMING, RANKS, REPORT):
                (output / file).unlink(missing_ok=True)
    write_json(path, flags)
    write_text(output / "flags.cfg", flagfile)


def _write_files(
    output: Path,
    results: dict[str, Any],
    timing: dict[str, Any],
    students: dict[str, list[Trained]],
) -> dict[str, Path]:
    """Writes everything that a finished run leaves; what a file holds → the file."""
    files = {
        "report": output / REPORT,
        "results": output / RESULTS,
        "timing": output / TIMING,
        "test ranks": output / RANKS,
        "students": output / STUDENTS,
    }
    # Every user's expected test rank, for anybody's own tests.
    ranks = {
        f"{variant}-seed{one.seed}": test_ranks(one).all_items
        for variant, trained in students.items()
        for one in trained
    }
    beside = output / "ranks.part.npz"
    np.savez_compressed(beside, allow_pickle=False, **ranks)
    beside.replace(files["test ranks"])
    write_json(files["results"], results)
    write_json(files["timing"], timing)
    save_figures(output / FIGURES, results)
    write_report(files["report"], results, timing)
    return files
