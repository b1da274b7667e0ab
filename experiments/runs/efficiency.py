"""`study efficiency`: the paper's Fig. 1 and Table 4 from what other commands have measured.

In `--output_dir`: `train`'s results and times say what training costs and gives, `bench
--suite=serve` what a request costs. Nothing is measured here, so nothing is compared across
machines without saying so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from matplotlib.axes import Axes

from experiments.cli.command import Call
from experiments.reporting.costs import ModelSize, ServeCosts
from experiments.reporting.paper import paper_costs
from experiments.reporting.plotting import COLOURS, Sketch, log_x
from experiments.reporting.results import (
    Metrics,
    Results,
    TeacherResult,
    Timing,
    VariantResult,
)
from experiments.reporting.wording import MISSING, decimals, lookup, seconds
from experiments.runs.analysis import Found, analyse
from experiments.runs.views import TRAIN_FILES
from experiments.stages.record import complete, read_results, read_versioned
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import read_json
from prmkd_jax.evaluate.metrics import KEY_METRIC, KEY_METRICS

BENCH = "bench-serve.json"
STUDENTS = {"base": "plain student", "distilled": "distilled student"}
"""Kind of a variant → its name in the benchmark."""

Cost = Literal["epoch_seconds", "bytes_held", "p50_ms"]
COSTS: tuple[Cost, ...] = ("epoch_seconds", "bytes_held", "p50_ms")
"""What Table 4 compares, in its order."""


class ModelCosts(TypedDict):
    """A model and one way of having the items' vectors; `paper` is its row of Table 4."""

    model: str
    kind: str
    item_vectors: str
    items: int
    batch: int
    epoch_seconds: float | None
    bytes_held: int
    p50_ms: float
    test: Metrics
    paper: tuple[float, float, float] | None


def run(call: Call) -> None:
    """Puts both together."""
    output = Path(call.settings.run.output_dir)
    files = [output / name for name in (TRAIN_FILES.results, TRAIN_FILES.timing, BENCH)]
    makers = ("train", "train", "bench --suite=serve")
    for path, command in zip(files, makers, strict=True):
        if not path.is_file():
            raise UserError(
                f"{path}: missing, expected what the command {command} leaves there "
                "(give it with the same flags and --output_dir first)"
            )
    results = cast(Results, read_versioned(files[0]))
    timing = cast(Timing, read_results(files[1]))
    measured = read_measured(files[2])
    identity = {"files": {path.name: file_digest(path) for path in files}}
    with complete(files[2]):
        analyse(
            call, "efficiency", identity, ["efficiency"], lambda: find(results, timing, measured)
        )


def read_measured(path: Path) -> ServeCosts:
    """What the benchmark has left.

    Raises:
        UserError: it is damaged.
    """
    try:
        return cast(ServeCosts, read_json(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: damaged ({first_line(error)}), expected what bench --suite=serve has "
            "written (give that command again)"
        ) from error


def find(results: Results, timing: Timing, measured: ServeCosts) -> Found:
    """The table and the bubbles.

    Args:
        results: the results of `train`.
        timing: the times of `train`.
        measured: the figures of the benchmark.
    """
    rows = model_rows(results, timing, measured)
    if not rows or rows[0]["kind"] != "base":
        raise UserError(f"{BENCH}: found no plain student, expected the one that train trained")
    content = {
        "study": {"name": "efficiency"},
        "data": results["data"]["name"],
        "environment": measured["environment"],
        "rows": rows,
    }
    text = markdown(results["data"]["name"], rows, measured["environment"])
    return Found(content, text, {"efficiency": sketch(rows)})


def model_rows(results: Results, timing: Timing, measured: ServeCosts) -> list[ModelCosts]:
    """One row a model and way of having the items' vectors; the plain student first.

    The smallest catalogue and the largest batch that were measured: closest to the data set's own
    size, and least of what every call costs whatever it is asked.

    Raises:
        UserError: the benchmark was made of a model of another size than `train`'s.
    """
    items = min(model["items"] for model in measured["models"])
    batch = max(latency["batch"] for latency in measured["latencies"])
    epochs = _epoch_seconds(results, timing)
    tested = {variant["kind"]: variant for variant in results["variants"]}
    models: list[tuple[str, str, VariantResult | TeacherResult]] = [
        (STUDENTS[kind], kind, tested[kind]) for kind in STUDENTS if kind in tested
    ]
    models += [(teacher["label"], "teacher", teacher) for teacher in results["teachers"].values()]
    rows: list[ModelCosts] = []
    for name, kind, model in models:
        label, test = model["label"], model["test"]
        for sizes in measured["models"]:
            if (sizes["model"], sizes["items"]) != (name, items):
                continue
            _require_same(name, sizes, model)
            vectors = sizes["item_vectors"]
            (latency,) = (
                each
                for each in measured["latencies"]
                if (each["model"], each["item_vectors"], each["items"], each["batch"])
                == (name, vectors, items, batch)
            )
            rows.append(
                {
                    "model": label,
                    "kind": kind,
                    "item_vectors": vectors,
                    "items": items,
                    "batch": batch,
                    "epoch_seconds": epochs.get(label),
                    "bytes_held": sizes["bytes_held"],
                    "p50_ms": latency["p50_ms"],
                    "test": {metric: test[metric] for metric in KEY_METRICS},
                    "paper": paper_costs(label),
                }
            )
    return rows


def _require_same(name: str, sizes: ModelSize, model: VariantResult | TeacherResult) -> None:
    """Refuses costs of another model under this one's name, such as a student of another width."""
    found, expected = sizes["parameters"], model["parameters"]
    if found != expected:
        raise UserError(
            f"{BENCH}: {name}: found {found:,} parameters, expected {expected:,} as "
            f"{model['label']} has in {TRAIN_FILES.results} (give bench the flags that train had, "
            "or its students as --plain and --distilled)"
        )


def _epoch_seconds(results: Results, timing: Timing) -> dict[str, float]:
    """Label → seconds of an epoch; a teacher's with its validation, since no other is kept."""
    found = {
        variant["label"]: lookup(timing, "variants", variant["name"], "seconds_per_epoch")
        for variant in results["variants"]
    }
    for name, teacher in results["teachers"].items():
        tuned = lookup(timing, "teachers", name, "tune_seconds")
        epochs = cast("dict[str, Any]", teacher).get("epochs")
        found[teacher["label"]] = tuned / epochs if tuned and epochs else None
    return {label: value for label, value in found.items() if value is not None}


def markdown(name: str, rows: Sequence[ModelCosts], environment: Mapping[str, object]) -> str:
    """Table 4 with ours and the paper's, in times the plain student's."""
    base = rows[0]
    processor = environment.get("processor", MISSING)
    lines = [
        f"Costs on {name} in times those of {base['model']}, in brackets the paper's (on Arts, one "
        f"RTX 3090); ours on {processor}, {base['items']:,} items, {base['batch']:,} histories at "
        "once. Training: an epoch, of teachers their tuning with its validations. Memory: weights "
        "and item vectors, or what these are made of. Cached: the items' vectors are at hand; "
        "recomputed: they are computed for each batch.",
        "",
        "| model | item vectors | training | memory | time of a batch | an epoch | MB | ms | "
        f"{KEY_METRIC} |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = [_times(row, base, key, place) for place, key in enumerate(COSTS)]
        cells = [row["model"], row["item_vectors"], *times, seconds(row["epoch_seconds"])]
        cells += [f"{row['bytes_held'] / 1e6:,.1f}", f"{row['p50_ms']:,.1f}"]
        lines.append(f"| {' | '.join([*cells, decimals(row['test'][KEY_METRIC])])} |")
    return "\n".join(lines) + "\n"


def _times(row: ModelCosts, base: ModelCosts, key: Cost, place: int) -> str:
    own, plain = row[key], base[key]
    ours = f"{own / plain:.2f}×" if own and plain else MISSING
    return ours if row["paper"] is None else f"{ours} ({row['paper'][place]:.1f}×)"


def sketch(rows: Sequence[ModelCosts]) -> Sketch:
    """Quality over the time of a batch; areas are memory, hollow ones recompute the vectors."""
    largest = max(row["bytes_held"] for row in rows)

    def draw(axes: Axes) -> None:
        for row in rows:
            cached = row["item_vectors"] == "cached"
            colour = COLOURS[row["kind"]]
            area = 30 + 900 * row["bytes_held"] / largest
            place = (row["p50_ms"], row["test"][KEY_METRIC])
            face = colour if cached else "none"
            axes.scatter(*place, s=area, facecolors=face, edgecolors=colour, alpha=0.8)
            if cached:
                offset = {"textcoords": "offset points", "xytext": (6, 6), "fontsize": 7}
                axes.annotate(row["model"], place, **offset)
        axes.margins(0.25)
        log_x(axes)
        axes.set_xlabel(
            f"ms for {rows[0]['batch']:,} histories\narea: memory; hollow: vectors recomputed"
        )
        axes.set_ylabel(f"{KEY_METRIC}, test set")

    shown = [
        f"{row['model']} {decimals(row['test'][KEY_METRIC])} at {row['p50_ms']:,.1f} ms"
        for row in rows
        if row["item_vectors"] == "cached"
    ]
    histories = f"{rows[0]['batch']:,} histories"
    alt = f"{KEY_METRIC} on the test set over the time of {histories}: {', '.join(shown)}."
    return Sketch(3.6, draw, alt)
