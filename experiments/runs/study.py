"""Variants of one configuration, each run with every seed and compared with another.

A table or a figure of the paper is a list of variants; `run_study` does the rest. Finished runs
are never repeated, and a command that was stopped goes on where it was.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bridge.runtime import settle
from experiments.cli.flags import Group, as_dict, parse
from experiments.cli.settings import GROUPS, Settings, settings_from
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json, write_text
from prmkd_jax.common.options import option, validate


class Variant(NamedTuple):
    """One variant of a configuration.

    Attributes:
        name: short, as `--variants` takes it.
        label: as tables and figures call it.
        flags: what it changes, as on the command line.
        reference: the name of the variant that it is compared with, None for none.
        kind: "base", "prmkd" or "other": its colour in the figure.
    """

    name: str
    label: str
    flags: tuple[str, ...]
    reference: str | None = "prmkd"
    kind: str = "other"


@dataclasses.dataclass(frozen=True)
class VariantsConfig:
    """Which variants are run, and where their runs are kept."""

    variants: tuple[str, ...] = option(
        (),
        "Names of the variants to run; empty runs all. What one is compared with runs as well.",
    )
    variant_flags: str = option(
        "",
        "Flags of single variants, such as their own weights chosen on validation: "
        "name: flag=value flag=value; name: flag=value.",
    )
    runs_dir: str = option(
        "runs/finished",
        "Folder of finished runs, shared by all studies; take another after changing the code.",
        filled=True,
    )

    def __post_init__(self):
        validate(self)


STUDY_GROUPS = (*GROUPS, Group("Variants", "", VariantsConfig))


def run_study(
    argv: Sequence[str],
    name: str,
    title: str,
    versus: str,
    list_variants: Callable[[Settings], Sequence[Variant]],
) -> None:
    """Runs the variants; leaves `<output_dir>/<name>.json`, `.md` and `.svg`.

    The same study may be written again; `<name>_run.json` tells which one it was.

    The seconds, which the table shows too, stand in `<name>_timing.json`, so that equal runs
    give equal bytes.

    Args:
        argv: the command line, without the program's name.
        name: of the command and of its files.
        title: of the table.
        versus: what the variants are compared with, in words.
        list_variants: the variants of a configuration, in the table's order.
    """
    program = f"python -m experiments.{name}"
    *configs, study = parse(argv, STUDY_GROUPS, program).configs
    settings = settings_from(tuple(configs))
    if not settings.run.teachers:
        raise UserError("--teachers: found none, expected at least one to distil from")
    variants = choose_variants(list_variants(settings), study)
    # Mistakes in any variant are told before the first is run.
    parsed = [parse([*argv, *each.flags], STUDY_GROUPS, program).configs[:-1] for each in variants]
    students = dict.fromkeys(settings_from(each).student.student for each in parsed)
    settle(compilation_cache=Path(settings.run.cache_dir) / "jax")
    from experiments.cli.console import Reporter
    from experiments.runs.compare import describe, describe_timing, figure, markdown
    from experiments.runs.finished import check_runs, finished_runs
    from experiments.stages.environment import describe_environment
    from experiments.stages.run_folder import begin, examine, finish

    reporter, runs = Reporter(), {}
    identities = dict(zip([variant.name for variant in variants], check_runs(parsed), strict=True))
    output = examine(
        Path(settings.run.output_dir),
        {"settings": {"variants": [variant.name for variant in variants]}, "variants": identities},
        [f"{name}{ending}" for ending in (".json", "_timing.json", ".md", ".svg")],
        overwrite=settings.run.overwrite,
        manifest=f"{name}_run.json",
    )
    begin(output)
    try:
        for variant, each in zip(variants, parsed, strict=True):
            reporter.say(f"{variant.label}: {' '.join(variant.flags)}")
            folder = Path(study.runs_dir)
            runs[variant.name] = finished_runs(each, folder, reporter, rank_test=True)
    except KeyboardInterrupt:
        reporter.say("interrupted; the same command goes on from here")
        sys.exit(130)
    results = {
        "title": title,
        "versus": versus,
        "students": list(students),
        "environment": describe_environment(),
        "settings": {**as_dict(GROUPS, configs), "overwrite": False},
        "variants": describe(variants, runs),
    }
    timing = {name: describe_timing(each) for name, each in runs.items()}
    files = Path(settings.run.output_dir) / name
    write_json(files.with_suffix(".json"), results)
    write_json(files.with_name(f"{name}_timing.json"), timing)
    write_text(files.with_suffix(".md"), markdown(results, timing))
    write_text(files.with_suffix(".svg"), figure(results))
    finish(output)
    reporter.say(markdown(results, timing))
    reporter.say(f"Written to {files}.json, .md and .svg")


def choose_variants(variants: Sequence[Variant], study: VariantsConfig) -> list[Variant]:
    """The variants that `--variants` names and their references, with `--variant_flags`.

    Raises:
        UserError: if a name is unknown, or the flags aren't written as they should be.
    """
    names = [variant.name for variant in variants]
    more: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in study.variant_flags.split(";"))):
        name, colon, flags = part.partition(":")
        if not colon or name not in names or not all("=" in flag for flag in flags.split()):
            raise UserError(
                f"--variant_flags: found {part!r}, expected name: flag=value, "
                f"the name one of {', '.join(names)}"
            )
        more[name] = tuple(f"--{flag.removeprefix('--')}" for flag in flags.split())
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
