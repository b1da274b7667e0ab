"""`study cold_start`: who gains, and who gets which lists, by segments of the test instances.

Nothing is trained: it reads the results and ranks that a finished `train` or study has left in
`--output_dir`, and the data set that they are of.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from matplotlib.axes import Axes

from experiments.cli.command import Call
from experiments.reporting.list_table import LISTS, explain_lists, list_cells
from experiments.reporting.plotting import DISTILLED, INK, Sketch, explain_x, name_rows
from experiments.reporting.results import Figures, Results
from experiments.reporting.wording import ALPHA, decimals, p_value, percent
from experiments.runs.analysis import Found, analyse
from experiments.runs.views import StudyFiles, find_studies
from experiments.stages.data import load_task
from experiments.stages.record import complete, read_versioned
from experiments.stages.segments import KINDS, segments_of
from prmkd_jax.common.arrays import read_npz
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import KEY_METRIC, KEY_METRICS
from prmkd_jax.evaluate.segments import Segment, SegmentGain, segment_gains

SHOWN = (*KEY_METRICS, "MRR")


class GainRow(SegmentGain):
    """A segment's gain with what is compared, in which study, by which metric and kind."""

    study: str
    variant: str
    reference: str
    metric: str
    kind: str


class ListRow(TypedDict):
    """What a variant's lists are like in a segment of a kind, and of how many instances."""

    study: str
    variant: str
    kind: str
    segment: str
    instances: int
    figures: Figures


def run(call: Call) -> None:
    """Compares every variant of the folder's studies with its reference, segment by segment."""
    output = Path(call.settings.run.output_dir)
    studies = find_studies(output)
    task = load_task(call.settings)
    # Before a finished folder is looked at: it tells nothing of the data asked for now.
    for each in studies:
        read_same(task, output / each.results)
    identity = {
        "data": task.dataset.fingerprint,
        "split": task.split_digest,
        "ranks": {each.ranks: file_digest(output / each.ranks) for each in studies},
    }
    analyse(call, "cold_start", identity, ["cold_start"], lambda: find(task, output, studies))


def find(task: Task, output: Path, studies: Sequence[StudyFiles]) -> Found:
    """The gains of every study's variants.

    Args:
        task: data and split that the studies are of.
        output: the folder of these runs.
        studies: names of their files.

    Raises:
        UserError: a study is of other data or another split, or nothing in it is compared.
    """
    kinds = kinds_of(task)
    rows: list[GainRow] = []
    lists: list[ListRow] = []
    for files in studies:
        results = read_same(task, output / files.results)
        ranks = read_ranks(output / files.ranks, len(task.split.test))
        with complete(output / files.results):
            rows += study_rows(results, ranks, kinds)
            lists += list_rows(results, kinds)
    if not rows:
        raise UserError(f"--output_dir: found nothing that is compared in {output}")
    name = task.dataset.name
    content = {"study": {"name": "cold_start"}, "data": name, "rows": rows, "lists": lists}
    text = markdown(name, rows) + list_markdown(lists)
    return Found(content, text, {"cold_start": sketch(rows)})


def read_ranks(path: Path, instances: int) -> dict[str, np.ndarray]:
    """A study's ranks, one array a run.

    Args:
        path: the study's archive.
        instances: test instances of the data that it is of.

    Raises:
        UserError: it is missing or damaged, or holds something else than their ranks.
    """
    wanted = "expected the ranks that the study has written (give its command again)"
    try:
        ranks = read_npz(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({first_line(error)}), {wanted}") from error
    for name, found in ranks.items():
        right = found.dtype.kind == "f" and found.shape == (instances,)
        if not right or not (np.isfinite(found) & (found >= 0)).all():
            shown = f"{found.dtype} {list(found.shape)}" if not right else "no ranks"
            raise UserError(f"{path}: {name}: found {shown}, {wanted}")
    return ranks


def read_same(task: Task, path: Path) -> Results:
    """A study's results.

    Raises:
        UserError: they are damaged, or as `require_same`.
    """
    results = cast(Results, read_versioned(path))
    with complete(path):
        require_same(task, results, path)
    return results


def require_same(task: Task, results: Results, path: Path) -> None:
    """Refuses results of other data: ranks of other instances say nothing of these."""
    found = (results["data"]["fingerprint"], cast("dict[str, Any]", results)["split"]["digest"])
    expected = (task.dataset.fingerprint, task.split_digest)
    if found != expected:
        raise UserError(
            f"{path}: found results of {results['data']['name']} with the data and split "
            f"{found[0]} {found[1][:12]}, expected {task.dataset.name} with {expected[0]} "
            f"{expected[1][:12]}: give the flags that the run was made with"
        )


def kinds_of(task: Task) -> dict[str, Sequence[Segment]]:
    """The kinds of segments, before them all test instances as a kind of its own."""
    together = Segment("all", np.ones(len(task.split.test), dtype=bool))
    return {"all": [together], **segments_of(task)}


def study_rows(
    results: Results, ranks: Mapping[str, np.ndarray], kinds: Mapping[str, Sequence[Segment]]
) -> list[GainRow]:
    """One row a compared variant, metric, kind and segment; Holm's correction within a kind."""
    seeds = {
        variant["name"]: np.stack(
            [ranks[f"{variant['name']}-seed{seed['seed']}"] for seed in variant["seeds"]]
        )
        for variant in results["variants"]
    }
    labels = {variant["name"]: variant["label"] for variant in results["variants"]}
    rows: list[GainRow] = []
    for variant in results["variants"]:
        reference = variant["reference"]
        if reference is None:
            continue
        for metric in SHOWN:
            for kind, segments in kinds.items():
                gains = segment_gains(seeds[reference], seeds[variant["name"]], segments, metric)
                rows += [
                    GainRow(
                        study=results["study"]["name"],
                        variant=variant["label"],
                        reference=labels[reference],
                        metric=metric,
                        kind=kind,
                        **gain,
                    )
                    for gain in gains
                ]
    return rows


def list_rows(results: Results, kinds: Mapping[str, Sequence[Segment]]) -> list[ListRow]:
    """What each variant's lists are like, one row a segment; none where it wasn't measured."""
    return [
        ListRow(
            study=results["study"]["name"],
            variant=variant["label"],
            kind=kind,
            segment=segment.name,
            instances=int(segment.members.sum()),
            figures=figures,
        )
        for variant in results["variants"]
        if (measured := variant.get("segment_lists"))
        for kind, segments in kinds.items()
        for segment in segments
        if (figures := variant.get("lists") if kind == "all" else measured[kind][segment.name])
    ]


def markdown(name: str, rows: Sequence[GainRow]) -> str:
    """One table a pair of variants."""
    words = "; ".join(
        f"{kind}: {meaning}" for kind, meaning in {"all": "all test instances", **KINDS}.items()
    )
    lines = [
        f"Gains on {name}, test part, by segments: {words}. "
        "Each metric is averaged over the seeds first; the interval is that of the difference over "
        "resampled users, 95 %; p-values of the paired t-test, Holm-corrected within a kind.",
    ]
    pairs = dict.fromkeys((row["study"], row["variant"], row["reference"]) for row in rows)
    for study, variant, reference in pairs:
        lines += ["", f"**{variant}** against {reference} ({study})", ""]
        lines.append("| metric | segment | instances | before | after | change | difference | p |")
        lines.append("|---|---|---|---|---|---|---|---|")
        for row in rows:
            if (row["study"], row["variant"], row["reference"]) == (study, variant, reference):
                lines.append(_line(row))
    return "\n".join(lines) + "\n"


def _line(row: GainRow) -> str:
    low, high = row["difference_interval"]
    cells = [row["metric"], _segment(row), f"{row['instances']:,}"]
    cells += [decimals(row["base"]), decimals(row["other"]), percent(row["change"])]
    cells += [f"{low:+.4f} … {high:+.4f}", p_value(row["p_holm"])]
    return f"| {' | '.join(cells)} |"


def list_markdown(rows: Sequence[ListRow]) -> str:
    """One table a variant; nothing where no lists were measured."""
    if not rows:
        return ""
    lines = ["", f"What the segments' lists of ten are like. {explain_lists()}."]
    for study, variant in dict.fromkeys((row["study"], row["variant"]) for row in rows):
        lines += ["", f"**{variant}** ({study})", ""]
        lines.append(
            f"| segment | instances | {' | '.join(heading for heading, _ in LISTS.values())} |"
        )
        lines.append(f"|---|---|{'---|' * len(LISTS)}")
        lines += [
            f"| {_segment(row)} | {row['instances']:,} | {' | '.join(list_cells(row['figures']))} |"
            for row in rows
            if (row["study"], row["variant"]) == (study, variant)
        ]
    return "\n".join(lines) + "\n"


def _segment(row: GainRow | ListRow) -> str:
    return "all" if row["kind"] == "all" else f"{row['kind']} {row['segment']}"


def sketch(rows: Sequence[GainRow]) -> Sketch:
    """The difference in every segment with its interval, of the last compared variant."""
    last = (rows[-1]["study"], rows[-1]["variant"])
    shown = [r for r in rows if (r["study"], r["variant"]) == last and r["metric"] == KEY_METRIC]
    labels = [_segment(row) for row in shown]

    def draw(axes: Axes) -> None:
        for place, row in enumerate(shown):
            axes.plot(row["difference_interval"], (place, place), color=DISTILLED, lw=2)
            face = DISTILLED if row["p_holm"] < ALPHA else "white"
            change = row["other"] - row["base"]
            axes.plot(change, place, "o", color=DISTILLED, mfc=face, ms=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        name_rows(axes, labels)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        words = [
            f"difference of {KEY_METRIC}: {shown[0]['variant']} − {shown[0]['reference']}",
            f"95 % intervals over users; hollow: p ≥ {ALPHA:g}",
        ]
        explain_x(axes, words)

    gains = [
        f"{label} {row['other'] - row['base']:+.4f}"
        for label, row in zip(labels, shown, strict=True)
    ]
    pair = f"{shown[0]['variant']} against {shown[0]['reference']}"
    alt = f"Difference of {KEY_METRIC}, {pair}, by segments: {', '.join(gains)}."
    return Sketch(1.1 + 0.3 * len(shown), draw, alt)
