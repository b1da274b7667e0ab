"""A study: variants of one configuration, each run with every seed and compared with another.

A table or a figure of the paper is a list of variants (`experiments.studies`); this module does
the rest. Finished runs are never repeated, and a command that was stopped goes on where it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.cli.command import Call, resolve
from experiments.cli.flags import as_dict, parse
from experiments.cli.options import StudyConfig
from experiments.cli.settings import GROUPS, Settings, settings_from
from experiments.runs.compare import describe, describe_timing, figure, markdown
from experiments.runs.finished import check_runs, finished_runs
from experiments.runs.variant import Study, Variant
from experiments.stages.environment import describe_environment
from experiments.stages.run_folder import begin, examine, finish
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json, write_text

FINISHED = "finished"
"""Folder of finished runs, next to `--output_dir`: all studies share it."""


def run(call: Call) -> None:
    """Runs the variants; leaves `<output_dir>/<name>.json`, `.md` and `.svg`.

    The same study may be written again; `<name>_run.json` tells which one it was.

    The seconds, which the table shows too, are in `<name>_timing.json`, so that equal runs
    give equal bytes.
    """
    study = the_study(call)
    parsed = parse_variants(call)
    reporter = call.reporter
    output = Path(call.settings.run.output_dir)
    names = [variant.name for variant in parsed]
    identities = dict(zip(names, check_runs(parsed.values()), strict=True))
    folder = examine(
        output,
        {"settings": {"variants": names}, "variants": identities},
        [f"{study.name}{ending}" for ending in (".json", "_timing.json", ".md", ".svg")],
        overwrite=call.settings.run.overwrite,
        manifest=f"{study.name}_run.json",
    )
    begin(folder)
    runs = {}
    for variant, configs in parsed.items():
        reporter.say(f"{variant.label}: {' '.join(variant.flags)}")
        runs[variant.name] = finished_runs(
            configs, output.parent / FINISHED, reporter, rank_test=True
        )
    students = dict.fromkeys(settings.student.student for settings in variations(call))
    results = {
        "title": study.title,
        "versus": study.versus,
        "students": list(students),
        "environment": describe_environment(),
        "settings": {**as_dict(GROUPS, call.configs), "overwrite": False},
        "variants": describe(list(parsed), runs),
    }
    timing = {name: describe_timing(each) for name, each in runs.items()}
    files = output / study.name
    write_json(files.with_suffix(".json"), results)
    write_json(files.with_name(f"{study.name}_timing.json"), timing)
    write_text(files.with_suffix(".md"), markdown(results, timing))
    write_text(files.with_suffix(".svg"), figure(results))
    finish(folder)
    reporter.say(markdown(results, timing))
    reporter.say(f"Written to {files}.json, .md and .svg")


def variations(call: Call) -> list[Settings]:
    """The settings of every variant, in the study's order.

    Raises:
        UserError: a mistake in the choice of variants or in any variant's flags.
    """
    return [settings_from(configs) for configs in parse_variants(call).values()]


def the_study(call: Call) -> Study:
    """The study that the command line names."""
    return resolve(call.command.topics[call.topic])


def parse_variants(call: Call) -> dict[Variant, Mapping[type, object]]:
    """Every variant that is to run → its configurations.

    Raises:
        UserError: as `variations`.
    """
    settings = call.settings
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    variants = choose_variants(the_study(call).variants(settings), call.config(StudyConfig))
    return {
        variant: parse([*call.argv, *variant.flags], call.command.groups).configs
        for variant in variants
    }


def choose_variants(variants: Sequence[Variant], study: StudyConfig) -> list[Variant]:
    """The variants that `--variants` names and their references, with `--variant_flags`.

    Raises:
        UserError: if a name is unknown, or the flags aren't written as they should be.
    """
    names = [variant.name for variant in variants]
    more: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in study.variant_flags.split(";"))):
        before, colon, after = part.partition(":")
        some = [name.strip() for name in before.split(",")]
        flags = tuple(f"--{flag.removeprefix('--')}" for flag in after.split())
        if not colon or not set(some) <= set(names) or not all("=" in flag for flag in flags):
            raise UserError(
                f"--variant_flags: found {part!r}, expected name: flag=value, "
                f"the name one of {', '.join(names)}"
            )
        for name in some:
            more[name] = (*more.get(name, ()), *flags)
    for name in study.variants:
        if name not in names:
            raise UserError(f"--variants: found {name!r}, expected some of {', '.join(names)}")
    wanted = {*(study.variants or names)}
    wanted |= {v.reference for v in variants if v.name in wanted and v.reference is not None}
    return [
        variant._replace(flags=variant.flags + more.get(variant.name, ()))
        for variant in variants
        if variant.name in wanted
    ]
