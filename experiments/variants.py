"""Variants of one configuration, run with every seed and compared with one of them.

A table or a figure of the paper is a list of variants; `run_study` does the rest. Finished runs
are never repeated, and a command that was stopped goes on where it was.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bridge.runtime import settle
from experiments.config import GROUPS, Settings, settings_from
from experiments.files import write_json, write_text
from experiments.flags import Group, as_dict, parse
from experiments.wording import ALPHA, count, decimals, model_name, p_value, percent, seconds
from prmkd_jax.data.errors import UserError
from prmkd_jax.data.option import option, validate
from prmkd_jax.evaluate.metrics import METRICS
from prmkd_jax.evaluate.significance import compare, holm

if TYPE_CHECKING:
    from experiments.trials import FinishedRun

SHOWN = "NDCG@10"


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
    from experiments.console import Reporter
    from experiments.environment import describe_environment
    from experiments.trials import finished_runs

    reporter, runs = Reporter(), {}
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
        "settings": as_dict(GROUPS, configs),
        "variants": describe(variants, runs),
    }
    timing = {name: describe_timing(each) for name, each in runs.items()}
    files = Path(settings.run.output_dir) / name
    write_json(files.with_suffix(".json"), results)
    write_json(files.with_name(f"{name}_timing.json"), timing)
    write_text(files.with_suffix(".md"), markdown(results, timing))
    write_text(files.with_suffix(".svg"), figure(results))
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


def describe(
    variants: Sequence[Variant], runs: Mapping[str, Sequence["FinishedRun"]]
) -> list[dict[str, Any]]:
    """Every variant's results, and what its difference from its reference is worth.

    Each user's metric is averaged over the seeds, then one paired test runs over the users. The
    p-values of a metric are corrected together, over all variants, by Holm's method.

    Args:
        variants: in the table's order.
        runs: name → its runs, one a seed.
    """
    ranks = {
        name: np.stack([run.ranks for run in each if run.ranks is not None])
        for name, each in runs.items()
    }
    references = {v.name: v.reference for v in variants if v.reference is not None}
    compared = {
        name: compare(ranks[reference], ranks[name]) for name, reference in references.items()
    }
    against: dict[str, dict[str, Any]] = {name: {} for name in references}
    for metric in METRICS:
        t_holm = holm([compared[name][metric].t_p for name in references])
        wilcoxon_holm = holm([compared[name][metric].wilcoxon_p for name in references])
        for name, t, wilcoxon in zip(references, t_holm, wilcoxon_holm, strict=True):
            against[name][metric] = {
                "change": compared[name][metric].improvement,
                "t_p": compared[name][metric].t_p,
                "t_p_holm": t,
                "wilcoxon_p": compared[name][metric].wilcoxon_p,
                "wilcoxon_p_holm": wilcoxon,
            }
    return [
        {**_describe_variant(variant, runs[variant.name]), "against": against.get(variant.name)}
        for variant in variants
    ]


def describe_timing(runs: Sequence["FinishedRun"]) -> dict[str, float] | None:
    """Training seconds of an epoch and until the best one, means over the seeds.

    None where a run has left no log of them.
    """
    if not all(len(run.epoch_seconds) == run.epochs for run in runs):
        return None
    return {
        "seconds_per_epoch": statistics.fmean(s for run in runs for s in run.epoch_seconds),
        "seconds_to_best": statistics.fmean(
            sum(run.epoch_seconds[: run.best_epoch]) for run in runs
        ),
    }


def markdown(results: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    """The variants as a Markdown table.

    Args:
        results: as in `<name>.json`.
        timing: as in `<name>_timing.json`.
    """
    settings, rows = results["settings"], results["variants"]
    students, seeds = ", ".join(map(model_name, results["students"])), len(settings["seeds"])
    lines = [
        f"{results['title']}: {students} on {settings['dataset']}, test part, mean of {seeds} "
        f"seed{'s' if seeds > 1 else ''}; change and p-values against {results['versus']}, over "
        "users, Holm-corrected; seconds of training, without the validations.",
        "",
        "| variant | Recall@10 | NDCG@10 | change of NDCG@10 | p, t-test | p, Wilcoxon | "
        "validation NDCG@10 | best epoch | an epoch | to the best epoch | parameters |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["label"], decimals(row["test"]["Recall@10"]), decimals(row["test"][SHOWN])]
        against = row["against"] and row["against"][SHOWN]
        if against:
            cells += [percent(against["change"]), p_value(against["t_p_holm"])]
            cells += [p_value(against["wilcoxon_p_holm"])]
        else:
            cells += ["", "", ""]
        cells += [decimals(row["validation"][SHOWN]), f"{row['best_epoch']:.0f}"]
        took = timing[row["name"]] or {}
        cells += [seconds(took.get(key)) for key in ("seconds_per_epoch", "seconds_to_best")]
        cells += [count(row["parameters"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(results: Mapping[str, Any]) -> str:
    """The variants' test NDCG@10 as bars; hollow ones don't differ from their reference."""
    from matplotlib.axes import Axes

    from experiments.plotting import BASE, PRMKD, TEACHER, draw_svg, horizontal_bars

    rows = results["variants"]
    values = [row["test"][SHOWN] for row in rows]
    colours = {"base": BASE, "prmkd": PRMKD, "other": TEACHER}
    sure = [not row["against"] or row["against"][SHOWN]["t_p_holm"] < ALPHA for row in rows]

    def draw(axes: Axes) -> None:
        horizontal_bars(
            axes,
            [row["label"] for row in rows],
            values,
            [*map(decimals, values)],
            [colours[row["kind"]] for row in rows],
            [row["test_std"][SHOWN] for row in rows],
            filled=sure,
        )
        axes.set_xlabel(f"{SHOWN}, test set")

    svg = draw_svg(0.9 + 0.34 * len(rows), draw)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'


def _describe_variant(variant: Variant, runs: Sequence["FinishedRun"]) -> dict[str, Any]:
    def over_seeds(part: str, summarise: Callable[[list[float]], float]) -> dict[str, float]:
        return {
            metric: summarise([getattr(run, part)[metric] for run in runs]) for metric in METRICS
        }

    def spread(values: list[float]) -> float:
        return statistics.stdev(values) if len(values) > 1 else 0.0

    kept = [field.name for field in dataclasses.fields(runs[0])]
    kept = [name for name in kept if name not in ("ranks", "epoch_seconds")]
    per_seed = [{name: getattr(run, name) for name in kept} for run in runs]
    return {
        **variant._asdict(),
        "validation": over_seeds("validation", statistics.fmean),
        "test": over_seeds("test", statistics.fmean),
        "test_std": over_seeds("test", spread),
        "best_epoch": statistics.fmean(run.best_epoch for run in runs),
        "parameters": runs[0].parameters,
        "per_seed": per_seed,
    }
