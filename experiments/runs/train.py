"""The body of `train`: the study of two variants, the student alone and distilled."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from experiments.cli.command import Call
from experiments.cli.flags import as_dict, as_flagfile, parse
from experiments.cli.settings import GROUPS, RunConfig, Settings
from experiments.runs.finished import masked_files, run_files
from experiments.runs.plan import PlannedRun
from experiments.runs.study import Plans, StudyLayout, carry_out, run_identity_with_seeds
from experiments.runs.variant import Study, Variant, alone
from experiments.runs.views import TRAIN_FILES
from experiments.stages.environment import describe_environment
from experiments.stages.exports import student_file_names
from experiments.stages.record import describe_data
from experiments.stages.students import RunPlace, logger, run_name
from prmkd_jax.common.files import write_json, write_text
from prmkd_jax.distill.config import METHODS
from prmkd_jax.students.registry import label, result_name
from prmkd_jax.train.refit import refit_folder

RUNS, STUDENTS, CHECKPOINTS = "runs", "students", "checkpoints"
CONFIG, FLAGFILE, LOG = "config.json", "flags.cfg", "log.jsonl"


def run(call: Call) -> None:
    """Tunes the teachers, trains the student alone and distilled, and reports both."""
    settings = call.settings
    taught = METHODS[settings.distill.method].label if settings.run.teachers else ""
    title = taught or label(settings.student)
    study = Study("train", title, "the same student alone", list_variants)
    carry_out(call, study, parse_variants(call), TRAIN)


def list_variants(settings: Settings) -> list[Variant]:
    """The student alone and, where there are teachers, distilled by `--method`."""
    student = label(settings.student)
    base = Variant("base", student, alone(settings), reference=None, kind="base")
    if not settings.run.teachers:
        return [base]
    method = settings.distill.method
    name = f"{METHODS[method].label} ({student})"
    return [base, Variant(method, name, (), reference="base", kind="distilled")]


def parse_variants(call: Call) -> dict[Variant, Mapping[type, object]]:
    """Both variants → their configurations."""
    return {
        variant: parse([*call.argv, *variant.flags], call.command.groups).configs
        for variant in list_variants(call.settings)
    }


def _identity(plans: Plans) -> dict[str, object]:
    """That of the distilled run, on which the plain one depends in part."""
    return run_identity_with_seeds(list(plans.values())[-1])


def _place(output: Path, variant: Variant, _: PlannedRun) -> RunPlace:
    return RunPlace(
        folder=output / RUNS / variant.name,
        log=output / LOG,
        states=output / CHECKPOINTS,
        students=output / STUDENTS,
    )


def _more_files(plans: Plans) -> tuple[list[str], list[str]]:
    """The files that are always written, and those that may be there."""
    always, masked = [CONFIG, FLAGFILE, LOG], []
    for variant, plan in plans.items():
        always += [f"{RUNS}/{variant.name}/{name}" for name in run_files(plan)]
        masked += [f"{RUNS}/{variant.name}/{name}" for name in masked_files(plan)]
        for seed in plan.seeds:
            name = run_name(plan.settings, seed)
            states = Path(CHECKPOINTS) / name
            always.append(f"{states}/")
            if plan.settings.train.refit:
                always.append(f"{refit_folder(states)}/")
            files = student_file_names(plan.settings.run)
            always += [f"{STUDENTS}/{name}/{file}" for file in files]
    student = result_name(next(iter(plans.values())).settings.student)
    return always, [*masked, *TRAIN_FILES.figure_names([student])]


def _begin(call: Call, output: Path, plans: Plans) -> None:
    """Writes the configuration and the log's first line."""
    run = dataclasses.replace(call.settings.run, overwrite=False)
    # Who repeats the run by its flagfile doesn't want to replace another one by it.
    configs = {**call.configs, RunConfig: run}
    write_json(output / CONFIG, as_dict(GROUPS, configs))
    write_text(output / FLAGFILE, as_flagfile(GROUPS, configs))
    plan = next(iter(plans.values()))
    logger(output / LOG)(
        {
            "stage": "start",
            "environment": describe_environment(),
            "runtime": list(call.runtime),
            "data": describe_data(plan.task),
        }
    )


TRAIN = StudyLayout(
    files=TRAIN_FILES,
    identity=_identity,
    place=_place,
    more=_more_files,
    begin=_begin,
    exports=True,
)
