"""Answers for any number of histories, in blocks: a stopped job goes on, no file is half a file.

While a job is under way `<output>.parts` holds `job.json`, which says what is asked, and a
complete file for each finished block. At the end they become the output, and the folder goes.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prmkd_jax.common.cache import locked
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import remove_leftovers, write_json, write_text, writing
from prmkd_jax.serve.histories import Asked, require_suffix
from prmkd_jax.serve.recommender import Recommender

# Histories of one part: what a kill costs at most.
BLOCK = 4096

_JOB = "job.json"
_SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "items": pa.list_(pa.string()),
        "scores": pa.list_(pa.float32()),
        "titles": pa.list_(pa.string()),
        "unknown_items": pa.int32(),
        "known_user": pa.bool_(),
    }
)

Row = dict[str, Any]
"""One answer by the names of `_SCHEMA`; `titles` only where asked for."""


class Job(NamedTuple):
    """What is asked.

    Attributes:
        histories: gives the histories from a place on.
        total: how many there are.
        identity: what the answers depend on, as JSON content: model, source, settings.
        k: most items of an answer.
        filter_seen: leave out the items of the history.
        titles: add titles.
    """

    histories: Callable[[int], Iterator[Asked]]
    total: int
    identity: Mapping[str, Any]
    k: int = 10
    filter_seen: bool = True
    titles: bool = False


class Summary(NamedTuple):
    """What a job came to.

    Attributes:
        histories: answered.
        unknown_items: items of the histories that the student doesn't know.
        unanswered: histories without a recommendation.
        known_users: answered by a vector of the user's own.
    """

    histories: int = 0
    unknown_items: int = 0
    unanswered: int = 0
    known_users: int = 0

    def plus(self, rows: Iterable[Row]) -> "Summary":
        """With these answers too."""
        rows = list(rows)
        return Summary(
            self.histories + len(rows),
            self.unknown_items + sum(row["unknown_items"] for row in rows),
            self.unanswered + sum(not row["items"] for row in rows),
            self.known_users + sum(row["known_user"] for row in rows),
        )


def answer(recommender: Recommender, asked: Sequence[Asked], job: Job) -> list[Row]:
    """Answers histories."""
    answers = recommender.recommend(
        [each.history for each in asked],
        job.k,
        users=[each.user for each in asked],
        filter_seen=job.filter_seen,
        explain=job.titles,
    )
    rows: list[Row] = []
    for each, found in zip(asked, answers, strict=True):
        row: Row = {"user_id": each.user, "items": [one.item for one in found.items]}
        row["scores"] = [one.score for one in found.items]
        if job.titles:
            row["titles"] = [one.title for one in found.items]
        row |= {"unknown_items": found.unknown_items, "known_user": found.known_user}
        rows.append(row)
    return rows


def answer_stream(recommender: Recommender, job: Job, first: int = 0) -> Iterator[list[Row]]:
    """Answers a job's histories from a place on, a block at a time."""
    histories = job.histories(first)
    while asked := list(itertools.islice(histories, BLOCK)):
        yield answer(recommender, asked, job)


def answer_file(
    recommender: Recommender,
    job: Job,
    output: Path,
    progress: Callable[[int, int], None],
    overwrite: bool = False,
) -> Summary:
    """Answers a job into a file; given again after a kill it goes on with the first block missing.

    Args:
        recommender: the student that answers.
        job: the histories and the settings.
        output: the file, .jsonl or .parquet.
        progress: receives the histories done and their total.
        overwrite: replace the file, or another job's parts.

    Raises:
        UserError: the file is there, or parts of another job are, and `overwrite` is not set; or
            as the histories.
    """
    parts = output.with_name(f"{output.name}.parts")
    with locked(parts / "job"):
        _require_free(output, parts, job, overwrite)
        remove_leftovers(parts)
        write_json(parts / _JOB, dict(job.identity))
        finished = _finished(parts, output.suffix)
        summary = Summary()
        for part in finished:
            summary = summary.plus(_read_rows(part))
        progress(summary.histories, job.total)
        for rows in answer_stream(recommender, job, summary.histories):
            part = parts / _part_name(len(finished), output.suffix)
            _write_rows(part, rows)
            finished.append(part)
            summary = summary.plus(rows)
            progress(summary.histories, job.total)
        _join(finished, output)
        shutil.rmtree(parts)
    return summary


def require_output(output: Path, overwrite: bool) -> None:
    """Refuses an output before the model is opened.

    Raises:
        UserError: it has another suffix, or is there and may not be replaced.
    """
    require_suffix(output, "--output")
    if output.exists() and not overwrite:
        raise UserError(f"--output: found {output}, expected no such file, or --overwrite")


def _require_free(output: Path, parts: Path, job: Job, overwrite: bool) -> None:
    require_output(output, overwrite)
    place = parts / _JOB
    if not place.is_file() or json.loads(place.read_text("utf-8")) == dict(job.identity):
        return
    if not overwrite:
        raise UserError(
            f"--output: found {parts}, begun with another model, source or settings, expected the "
            "same, or --overwrite"
        )
    for path in parts.glob("part-*"):
        path.unlink()


def _finished(parts: Path, suffix: str) -> list[Path]:
    """The complete parts, as far as none is missing."""
    names = (parts / _part_name(number, suffix) for number in itertools.count())
    return list(itertools.takewhile(Path.is_file, names))


def _part_name(number: int, suffix: str) -> str:
    return f"part-{number:06d}{suffix}"


def to_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    if path.suffix == ".jsonl":
        write_text(path, to_lines(rows))
        return
    schema = _SCHEMA if "titles" in rows[0] else _SCHEMA.remove(_SCHEMA.get_field_index("titles"))
    with writing(path) as partial:
        pq.write_table(pa.Table.from_pylist(rows, schema), partial)


def _read_rows(path: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as stream:
            yield from map(json.loads, stream)
    else:
        yield from pq.read_table(path).to_pylist()


def _join(parts: Sequence[Path], output: Path) -> None:
    with writing(output) as partial:
        if output.suffix == ".jsonl":
            with partial.open("wb") as stream:
                for part in parts:
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, stream)
            return
        schema = pq.read_schema(parts[0]) if parts else _SCHEMA
        with pq.ParquetWriter(partial, schema) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part))
