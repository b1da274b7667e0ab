"""python -m experiments.commands.search --flagfile=scientific.cfg --vary="dropout=0.1,0.3,0.5"

Tries settings and compares them on validation; the test part is never looked at. Every
combination of the values is run with every seed, and what is finished is not run again.
"""

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge.runtime import settle
from experiments.cli.flags import Group, parse, run_command
from experiments.cli.settings import GROUPS, settings_from
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_json, write_text
from prmkd_jax.common.options import option, validate

METRICS = ("Recall@10", "NDCG@10")


@dataclasses.dataclass(frozen=True)
class ChooseConfig:
    """What is tried, on whom."""

    vary: str = option("", "What to try: name=value,value; several names apart by semicolons.")
    choose_for: str = option(
        "prmkd",
        "Whose validation counts: the plain student, the distilled one, or the teachers.",
        choices=("base", "prmkd", "teachers"),
    )
    choice_dir: str = option(
        "runs/choices", "Folder of finished trials and of the tables.", filled=True
    )

    def __post_init__(self):
        validate(self)


CHOOSE_GROUPS = (*GROUPS, Group("Choice", "", ChooseConfig))


def main(argv: Sequence[str]) -> None:
    """Runs all trials and writes one table, as JSON and as Markdown."""
    program = "python -m experiments.commands.search"
    *configs, choice = parse(argv, CHOOSE_GROUPS, program).configs
    settle(compilation_cache=Path(configs[0].cache_dir) / "jax")
    from experiments.cli.console import Reporter
    from experiments.runs.finished import check_runs
    from experiments.stages.identity import digest

    reporter, rows = Reporter(), []
    alone = ["--teachers="] if choice.choose_for == "base" else []
    trials = []
    for changes in combinations(choice.vary):
        *configs, _ = parse([*argv, *changes, *alone], CHOOSE_GROUPS, program).configs
        # Mistakes in any trial are told before the first is run.
        settings_from(tuple(configs))
        setting = " ".join(change.removeprefix("--") for change in changes) or "as given"
        trials.append((setting, configs))
    check_runs([configs for _, configs in trials])
    try:
        for setting, configs in trials:
            reporter.say(f"Trial: {setting}")
            rows += [{**row, "setting": setting} for row in _try(configs, choice, reporter)]
    except KeyboardInterrupt:
        reporter.say("interrupted; the same command goes on from here")
        sys.exit(130)
    folder = Path(choice.choice_dir)
    name = digest({"vary": choice.vary, "for": choice.choose_for, "rows": rows})
    table = markdown(rows)
    write_json(folder / f"choice-{name}.json", {"vary": choice.vary, "rows": rows})
    write_text(folder / f"choice-{name}.md", table)
    reporter.say(table)
    reporter.say(f"Written to {folder / f'choice-{name}.json'} and .md")


def combinations(vary: str) -> Iterator[list[str]]:
    """Every combination of the values as command-line flags.

    >>> list(combinations("dropout=0.1,0.5; kl=js"))
    [['--dropout=0.1', '--kl=js'], ['--dropout=0.5', '--kl=js']]

    Raises:
        UserError: if a part is not of the form name=value,value.
    """
    options = []
    for part in filter(None, (part.strip() for part in vary.split(";"))):
        name, equals, values = part.partition("=")
        if not equals or not values:
            raise UserError(f"--vary: found {part!r}, expected name=value,value")
        options.append([f"--{name.strip()}={value.strip()}" for value in values.split(",")])
    return (list(chosen) for chosen in itertools.product(*options))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The trials as a Markdown table, the best validation NDCG@10 first."""
    lines = ["| model | setting | seeds | validation Recall@10 | validation NDCG@10 | best epoch |"]
    lines.append("|---|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row["validation"]["NDCG@10"]):
        recall, ndcg = (f"{row['validation'][metric]:.4f}" for metric in METRICS)
        lines.append(
            f"| {row['model']} | {row['setting']} | {row['seeds']} | {recall} | {ndcg} "
            f"| {row['best_epoch']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _try(configs: Sequence[Any], choice: ChooseConfig, reporter: Any) -> list[dict[str, Any]]:
    """One combination's rows: of the student, or one a teacher."""
    from experiments.runs.finished import finished_runs, ready_teachers
    from experiments.stages.pipeline import load_dataset
    from prmkd_jax.data.splits import leave_one_out

    settings, folder = settings_from(tuple(configs)), Path(choice.choice_dir) / "trials"
    if choice.choose_for == "teachers":
        dataset = load_dataset(settings)
        split = leave_one_out(dataset.interactions)
        teachers = ready_teachers(settings, dataset, split, folder, reporter)
        seed = str(settings.run.teacher_seed)
        return [_row(teacher.vectors.name, seed, [teacher.card]) for teacher in teachers]
    runs = finished_runs(configs, folder, reporter, rank_test=False)
    taught = settings.distill.method if settings.run.teachers else "base"
    model = f"{settings.student.label} {taught}"
    return [_row(model, ",".join(map(str, settings.run.seeds)), [vars(run) for run in runs])]


def _row(model: str, seeds: str, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "model": model,
        "seeds": seeds,
        "validation": {
            metric: statistics.fmean(run["validation"][metric] for run in runs)
            for metric in METRICS
        },
        "best_epoch": statistics.fmean(run["best_epoch"] for run in runs),
    }


if __name__ == "__main__":
    run_command(main)
