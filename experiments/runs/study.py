"""A study: variants of one configuration, each run with every seed and compared with another.

A table or a figure of the paper is a list of variants (`experiments.studies`); this module does
the rest. Finished runs are never repeated, and a command that was stopped goes on where it was.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np

from experiments.cli.command import Call, resolve
from experiments.cli.console import Reporter
from experiments.cli.flags import as_dict, parse
from experiments.cli.options import StudyConfig
from experiments.cli.settings import GROUPS, Settings, read_paths, settings_from
from experiments.reporting.results import Results, Timing
from experiments.runs.compare import study_results, study_timing
from experiments.runs.finished import FinishedRun, finish_run, ready_teachers
from experiments.runs.follow import follow
from experiments.runs.plan import PlannedRun, check_runs, plan_runs, shared_place
from experiments.runs.several import each_data_set
from experiments.runs.sheets import show_sheets
from experiments.runs.variant import Study, Variant, choose_variants
from experiments.runs.views import (
    StudyFiles,
    require_together,
    show,
    study_files,
    write_together,
    write_views,
)
from experiments.stages.environment import describe_environment
from experiments.stages.record import read_results, read_versioned
from experiments.stages.rows import rank_teachers
from experiments.stages.run_folder import RunFolder, claimed, examine, finish
from experiments.stages.students import RunPlace
from experiments.stages.teachers import ReadyTeacher
from experiments.stages.untrained import measure_untrained
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.common.sealed import write_sealed_json
from prmkd_jax.train.processes import leading, writes
from teachers_torch.items.inputs import has_texts
from teachers_torch.teacher import Identity

FINISHED = "finished"
"""Folder of finished runs, next to `--output_dir`: all studies share it."""

METHOD = "--method=prmkd"
"""What every variant is that doesn't say otherwise: studies take PRM-KD apart, whatever the call's
own `--method` is."""

READ_BY_ANALYSES = {"table2": frozenset({"datasets"})}
"""Study that trains nothing → what it reads of `StudyConfig`; the others read nothing of it."""

Plans = Mapping[Variant, PlannedRun]


@dataclasses.dataclass(frozen=True)
class StudyLayout:
    """Where a study and its runs leave their files.

    Attributes:
        files: the study's own.
        identity: all that the study depends on, as the manifest holds it.
        place: output folder, variant, run → where the run is kept.
        more: further files in the output folder: those that are always written, and those that
            may be.
        begin: writes what is there from the first moment on.
        exports: whether the runs leave students.
    """

    files: StudyFiles
    identity: Callable[[Plans], dict[str, Any]]
    place: Callable[[Path, Variant, PlannedRun], RunPlace]
    more: Callable[[Plans], tuple[list[str], list[str]]] = lambda plans: ([], [])
    begin: Callable[[Call, Path, Plans], None] = lambda call, output, plans: None
    exports: bool = False


def run(call: Call) -> None:
    """Runs the variants of a study; leaves `<output_dir>/<name>.json` and its views.

    Its runs are in `<output_dir>/../finished`, which all studies share.
    """
    study = the_study(call)
    if not isinstance(study, Study):
        for name in sorted(_unread_by(call.topic) & call.explicit):
            call.reporter.warn(f"--{name} has no effect: study {call.topic} does not read it")
        study(call)
        return
    calls = each_data_set(call)
    names = call.config(StudyConfig).datasets
    output = Path(call.settings.run.output_dir)
    if names:
        require_together(output, study)
    if len(calls) > 1:  # a mistake in the last one's is found before the first one's are trained
        for name, one in calls.items():
            _check(one, parse_variants(one), _layout(_named(study, name)))
    for name, one in calls.items():
        named = _named(study, name)
        carry_out(one, named, parse_variants(one), _layout(named))
    if names:
        write_together(output, study, names, call.reporter)


def _unread_by(analysis: str) -> frozenset[str]:
    """The flags of variants that a study which trains nothing doesn't read."""
    names = {field.name for field in dataclasses.fields(StudyConfig)}
    return frozenset(names - READ_BY_ANALYSES.get(analysis, frozenset()))


def _named(study: Study, data_set: str) -> Study:
    """The study of one data set of several."""
    return dataclasses.replace(study, name=f"{study.name}-{data_set}") if data_set else study


def _layout(study: Study) -> StudyLayout:
    return StudyLayout(
        files=study_files(study.name),
        identity=study_identity,
        place=lambda output, _, plan: shared_place(output.parent / FINISHED, plan),
    )


def _check(
    call: Call, parsed: Mapping[Variant, Mapping[type, object]], layout: StudyLayout
) -> None:
    """Finds what would stop a study later; says and changes nothing.

    Raises:
        UserError: as `carry_out`.
    """
    plans = {
        variant: plan
        for variant, plan in zip(parsed, plan_runs(parsed.values()), strict=True)
        if _has_inputs(variant, plan)
    }
    _require_one_task(plans)
    # The first process alone writes, and trains what the others train along.
    if writes() and _examine(call, plans, layout).found != "finished":
        check_runs(plans.values())


def carry_out(
    call: Call, study: Study, parsed: Mapping[Variant, Mapping[type, object]], layout: StudyLayout
) -> None:
    """Trains what isn't trained yet, and writes and shows the results.

    A stopped study goes on; of a finished one the results are shown again, and its files stay as
    they are. Everything is checked before anything is removed or written.

    Args:
        call: the command.
        study: the study, with its name and title.
        parsed: variant → its configurations by class.
        layout: folders and names of the files.

    Raises:
        UserError: on bad data or inputs, or if the folder is another run's.
    """
    reporter = call.reporter
    run = call.settings.run
    output = Path(run.output_dir)
    stages: dict[str, float] = {}
    with _timed(stages, "data"):
        planned = plan_runs(parsed.values(), exports=layout.exports)
    plans = {
        variant: plan
        for variant, plan in zip(parsed, planned, strict=True)
        if possible(variant, plan, reporter)
    }
    _require_one_task(plans)
    if not writes():
        follow([(plan, layout.place(output, each, plan)) for each, plan in plans.items()], reporter)
        return
    with leading():
        _lead(call, study, plans, layout, stages)


def _lead(
    call: Call, study: Study, plans: Plans, layout: StudyLayout, stages: dict[str, float]
) -> None:
    """What the first of several processes does, or the only one."""
    reporter = call.reporter
    run = call.settings.run
    output = Path(run.output_dir)
    planned = list(plans.values())
    show_sheets(planned, reporter)
    folder = _examine(call, plans, layout)
    if folder.found == "finished":
        reporter.say(f"{output}: this run is finished; --output_dir=… makes another")
        results = cast(Results, read_versioned(output / layout.files.results))
        timing = cast(Timing, read_results(output / layout.files.timing))
    else:
        check_runs(planned)
        with claimed(folder):
            results, timing = _make(call, study, plans, layout, stages)
            finish(folder)
    show(output, layout.files, results, timing, reporter)


def _examine(call: Call, plans: Plans, layout: StudyLayout) -> RunFolder:
    """Looks whether the study may write into its folder; changes nothing."""
    run = call.settings.run
    always, sometimes = layout.more(plans)
    return examine(
        Path(run.output_dir),
        layout.identity(plans),
        [*layout.files.names(), *always],
        optional=sometimes,
        overwrite=run.overwrite,
        reads=read_paths(*(plan.settings for plan in plans.values())),
        manifest=layout.files.manifest,
    )


def possible(variant: Variant, plan: PlannedRun, reporter: Reporter) -> bool:
    """Whether the data have what a variant can't do without; says so where they haven't."""
    if _has_inputs(variant, plan):
        return True
    reporter.say(f"{variant.label}: left out, {plan.task.dataset.name} has no texts")
    return False


def _has_inputs(variant: Variant, plan: PlannedRun) -> bool:
    return not variant.needs_texts or has_texts(plan.task.dataset, plan.settings.teachers.text)


def _require_one_task(plans: Plans) -> None:
    """Refuses variants that are ranked on different targets: their ranks are compared one by one.

    Raises:
        UserError: naming the first whose data or split is another than the first variant's.
    """
    tasks = {
        variant.name: (plan.task.dataset.fingerprint, plan.task.split_digest)
        for variant, plan in plans.items()
    }
    first = next(iter(tasks), "")
    for name, task in tasks.items():
        if task != tasks[first]:
            raise UserError(
                f"--variant_flags: found {name} with other data or another split than {first}, "
                "expected the same: variants are compared on the same test targets"
            )


def study_identity(plans: Plans) -> dict[str, object]:
    """The names of the variants, and what each depends on."""
    identities = {variant.name: run_identity_with_seeds(plan) for variant, plan in plans.items()}
    return {"settings": {"variants": list(identities)}, "variants": identities}


def run_identity_with_seeds(plan: PlannedRun) -> dict[str, object]:
    """What a run depends on, the seeds included."""
    identity = dict(plan.identity)
    identity["settings"] = {**identity["settings"], "seeds": list(plan.seeds)}
    return identity


def _make(
    call: Call, study: Study, plans: Plans, layout: StudyLayout, stages: dict[str, float]
) -> tuple[Results, Timing]:
    """Trains what isn't trained yet, and writes all files of the study."""
    output = Path(call.settings.run.output_dir)
    layout.begin(call, output, plans)
    runs, ready = _finish_runs(call, plans, layout, stages)
    task = next(iter(plans.values())).task
    with _timed(stages, "untrained"):
        untrained = measure_untrained(task, call.settings, ready, call.reporter)
    with _timed(stages, "tests"):
        teachers = rank_teachers(_teachers_of(plans), task, ready, call.reporter)
        models = {name: each.row for name, each in untrained.items()} | teachers
        ranks = {name: row.test for name, row in models.items()}
        masked = {name: row.test_masked for name, row in models.items()}
        settings = {**as_dict(GROUPS, call.configs), "overwrite": False}
        results = study_results(study, runs, describe_environment(), settings, ranks, masked)
    results["models"] = {name: row.metrics for name, row in models.items()}
    results["untrained"] = {name: each.entry for name, each in untrained.items()}
    return _write(output, layout.files, runs, results, study_timing(runs, stages))


def _teachers_of(plans: Plans) -> dict[str, tuple[Identity, Settings]]:
    """Name → teacher and settings; of two of one name the first variant's, as in the results."""
    found: dict[str, tuple[Identity, Settings]] = {}
    for plan in plans.values():
        for teacher in plan.teachers:
            found.setdefault(teacher.name, (teacher, plan.settings))
    return found


def _finish_runs(
    call: Call, plans: Plans, layout: StudyLayout, stages: dict[str, float]
) -> tuple[dict[Variant, FinishedRun], dict[str, ReadyTeacher]]:
    """The teachers of all runs first, then the students of each; and the teachers by their keys."""
    output = Path(call.settings.run.output_dir)
    reporter = call.reporter
    places = {variant: layout.place(output, variant, plan) for variant, plan in plans.items()}
    ready: dict[str, ReadyTeacher] = {}
    with _timed(stages, "teachers"):
        for variant, plan in plans.items():
            ready_teachers(plan, places[variant], reporter, ready)
    runs = {}
    for variant, plan in plans.items():
        reporter.say(f"{variant.label}: {' '.join(variant.flags) or 'as given'}")
        with _timed(stages, variant.name):
            runs[variant] = finish_run(plan, places[variant], ready, reporter)
    return runs, ready


def _write(
    output: Path,
    files: StudyFiles,
    runs: Mapping[Variant, FinishedRun],
    results: Mapping[str, object],
    timing: Timing,
) -> tuple[Results, Timing]:
    """Writes the results, the ranks for anybody's own tests, and what is made of the results.

    Returns:
        The results and the times as they can be read back, from which the rest is made.
    """
    ranks = {
        f"{variant.name}-seed{result.seed}": run.ranks[row]
        for variant, run in runs.items()
        if run.ranks is not None
        for row, result in enumerate(run.record.seeds)
    }
    with writing(output / files.ranks) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, **ranks)
    write_sealed_json(output / files.results, results)
    write_sealed_json(output / files.timing, timing)
    read = cast(Results, read_versioned(output / files.results))
    seconds = cast(Timing, read_results(output / files.timing))
    write_views(output, files, read, seconds)
    return read, seconds


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Notes a stage's seconds, apart from the results: equal runs give equal results."""
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def variations(call: Call) -> list[Settings]:
    """The settings of every variant, in the study's order.

    Raises:
        UserError: a mistake in the choice of variants or in any variant's flags.
    """
    if not isinstance(the_study(call), Study):
        return [call.settings]
    return [
        settings_from(configs)
        for one in each_data_set(call).values()
        for configs in parse_variants(one).values()
    ]


def the_study(call: Call) -> Study | Callable[[Call], None]:
    """The study that the command line names: a list of variants, or one that trains nothing."""
    return resolve(call.command.topics[call.topic])


def parse_variants(call: Call) -> dict[Variant, Mapping[type, object]]:
    """Every variant that is to run → its configurations.

    Raises:
        UserError: as `variations`.
    """
    settings = call.settings
    study = the_study(call)
    if not isinstance(study, Study):
        raise TypeError(f"{call.topic} has no variants")
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    variants = choose_variants(study.variants(settings), call.config(StudyConfig))
    return {
        variant: parse([*call.argv, METHOD, *variant.flags], call.command.groups).configs
        for variant in variants
    }
