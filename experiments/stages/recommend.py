"""The body of `recommend`: an exported student answers a file, a data set or one history."""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from experiments.cli.command import Call
from experiments.stages.data import SYNTHETIC, load_domain, trained_data
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import file_state, write_text
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.serve.answers import (
    BatchJob,
    Summary,
    answer_file,
    answer_stream,
    require_new,
    require_output,
    to_lines,
)
from prmkd_jax.serve.config import SOURCES, RecommendConfig
from prmkd_jax.serve.exported import CARD, read_card
from prmkd_jax.serve.histories import Asked, dataset_histories, read_histories
from prmkd_jax.serve.recommender import Recommender


def run(call: Call) -> None:
    """Writes the answers to --output, with progress and a summary; or prints them as JSON lines."""
    config = call.config(RecommendConfig)
    config.require()
    _require_filled(call, config)
    output = Path(config.output) if config.output else None
    if output is not None:
        require_output(output, config.overwrite, Path(config.input) if config.input else None)
    if config.similar_to:
        _similar(config, output)
        return
    # The input is read once before the model is opened, so a mistake in its last line is found now.
    source, histories, total = _source(config)
    if output is not None and not (config.input or config.dataset or config.history):
        call.reporter.say(f"all {total:,} users of the data that the student was trained on")
    recommender = Recommender.load(config.model)
    job = BatchJob(
        histories=histories,
        total=total,
        identity=_identity(config, recommender, source),
        k=config.k,
        filter_seen=config.filter_seen,
        titles=config.titles,
    )
    if output is None:
        unknown = 0
        for rows in answer_stream(recommender, job):
            _print(rows)
            unknown += sum(row["unknown_items"] for row in rows)
        if unknown:
            # Standard output has the answers alone.
            print(f"warning: {_skipped(unknown)}", file=sys.stderr)
        return
    with call.reporter.stage("recommending", "histories") as stage:
        summary = answer_file(recommender, job, output, stage.update, config.overwrite)
    for line in _summary_lines(summary, recommender, output):
        call.reporter.say(line)


def _print(rows: Sequence[Mapping[str, object]]) -> None:
    """Writes answers to standard output, in characters that it can hold: they are read as JSON."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    sys.stdout.write(to_lines(rows, ascii_only=not unicode))


def _require_filled(call: Call, config: RecommendConfig) -> None:
    """Refuses a source that was given empty, as by an unset variable of a shell.

    Without a source all users of the data are answered, which isn't what was asked for then.

    Raises:
        UserError: naming the flag.
    """
    for name in SOURCES:
        if name in call.given and not getattr(config, name):
            raise UserError(
                f"--{name}: found nothing, expected a source (without any of "
                f"{', '.join(f'--{each}' for each in SOURCES)} it is the data set that the student "
                "was trained on)"
            )


def _source(config: RecommendConfig) -> tuple[str, Callable[[int], Iterator[Asked]], int]:
    """What identifies the histories, the histories from a place on, and their number."""
    if config.input:
        path = Path(config.input)
        total = sum(1 for _ in read_histories(path))
        state = file_state(path)
        digest = file_digest(path)
        return digest, functools.partial(_unchanged_histories, path, state, digest), total
    if config.history:
        asked = Asked(None, list(config.history))
        # As JSON: ids may hold commas.
        return json.dumps(config.history), lambda first: iter([asked][first:]), 1
    dataset = _dataset(config)
    return dataset.fingerprint, functools.partial(dataset_histories, dataset), dataset.num_users


def _unchanged_histories(
    path: Path, state: tuple[int, ...], digest: str, first: int
) -> Iterator[Asked]:
    """The histories of a file from a place on, as long as it is the same.

    Each is looked at once more after it was read: what is answered is kept, and a file that
    changes and changes back would have the answers of both.

    Raises:
        UserError: it is another file than the one of this state and digest; or as
            `read_histories`.
    """
    changed = f"--input: found {path} changed while it was read, expected it to stay"
    for asked in read_histories(path, first):
        if file_state(path) != state:
            raise UserError(changed)
        yield asked
    if file_digest(path) != digest:
        raise UserError(changed)


def _dataset(config: RecommendConfig) -> Dataset:
    """The data set asked for; without a source, what the student was trained on as it is now."""
    card = read_card(Path(config.model))
    data = trained_data(card, Path(config.model) / CARD, config.dataset, config.data_dir)
    if data.dataset == SYNTHETIC:
        return synthetic_dataset(data)
    return load_domain(data, data.dataset, "--dataset")


def _identity(config: RecommendConfig, recommender: Recommender, source: str) -> dict[str, object]:
    return {
        "model": recommender.exported.card["digest"],
        "source": source,
        "k": config.k,
        "filter_seen": config.filter_seen,
        "titles": config.titles,
    }


def _summary_lines(summary: Summary, recommender: Recommender, output: Path) -> list[str]:
    lines = [f"{output}: {summary.histories} answers"]
    if summary.unknown_items:
        lines.append(_skipped(summary.unknown_items))
    if summary.unanswered:
        lines.append(f"histories without a recommendation: {summary.unanswered}")
    unknown = summary.histories - summary.known_users
    if recommender.exported.user_ids is not None and unknown:
        lines.append(f"users without a vector, answered by their history: {unknown}")
    return lines


def _skipped(items: int) -> str:
    return f"items that the student doesn't know, skipped: {items}"


def _similar(config: RecommendConfig, output: Path | None) -> None:
    if output is not None:
        if output.suffix != ".jsonl":
            raise UserError(f"--output: found {config.output!r}, expected .jsonl with --similar_to")
        # Parts beside it are of another job, which this one doesn't finish.
        require_new(output, config.overwrite)
    recommender = Recommender.load(config.model)
    rows: list[dict[str, object]] = []
    for item in config.similar_to:
        found = recommender.similar(item, config.k, explain=config.titles)
        row: dict[str, object] = {"item_id": item, "items": [one.item for one in found]}
        row["scores"] = [one.score for one in found]
        if config.titles:
            row["titles"] = [one.title for one in found]
        rows.append(row)
    if output is None:
        _print(rows)
    else:
        write_text(output, to_lines(rows))
