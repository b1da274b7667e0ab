"""Answers for any number of histories, in blocks: a stopped job goes on, no file is half a file.

While a job is under way `<output>.parts` holds `job.json`, which says what is asked, and a
complete file for each finished block. At the end they become the output, and the folder goes.
"""

import contextlib
import itertools
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prmkd_jax.common.cache import held
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import flush_folder, remove_leftovers, writing
from prmkd_jax.common.places import require_place
from prmkd_jax.common.sealed import (
    is_sealed,
    read_sealed,
    read_sealed_json,
    write_sealed_json,
    writing_sealed,
)
from prmkd_jax.serve.histories import Asked, require_suffix
from prmkd_jax.serve.recommender import Recommender

_LOG = logging.getLogger(__name__)

# Histories of one part: what a kill costs at most.
BLOCK = 4096

_JOB = "job.json"
_OWN = re.compile(r"(part-\d{6,}|joined)\.(jsonl|parquet)")
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


class BatchJob(NamedTuple):
    """What is asked.

    Attributes:
        histories: gives the histories from a place on.
        total: how many there are.
        identity: all that the answers depend on, as JSON content: model, source, settings.
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


def answer(recommender: Recommender, asked: Sequence[Asked], job: BatchJob) -> list[Row]:
    """Answers histories."""
    answers = recommender.recommend(
        [each.history for each in asked],
        job.k,
        users=[each.user for each in asked],
        filter_seen=job.filter_seen,
        titles=job.titles,
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


def answer_stream(recommender: Recommender, job: BatchJob, first: int = 0) -> Iterator[list[Row]]:
    """Answers a job's histories from a place on, a block at a time."""
    histories = job.histories(first)
    while asked := list(itertools.islice(histories, BLOCK)):
        yield answer(recommender, asked, job)


def answer_file(
    recommender: Recommender,
    job: BatchJob,
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
    parts = parts_folder(output)
    with held(parts, "job"):
        _require_free(output, parts, job, overwrite)
        remove_leftovers(parts)
        write_sealed_json(parts / _JOB, dict(job.identity))
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
        _finish(finished, output, parts, job.titles, overwrite)
        _remove(parts)
    return summary


def parts_folder(output: Path) -> Path:
    """Where the parts of an output are while it is made."""
    return output.with_name(f"{output.name}.parts")


def require_output(output: Path, overwrite: bool, source: Path | None = None) -> None:
    """Refuses an output before the model is opened; one whose parts are there is being finished.

    Args:
        output: the file that is to be written.
        overwrite: whether it may replace one.
        source: the file that is read, if any.

    Raises:
        UserError: it has another suffix, is there and may not be replaced, or would take the
            source's place.
    """
    require_suffix(output, "--output")
    require_place(output.parent, "--output")
    parts = parts_folder(output)
    if source is not None:
        if output.exists() and output.samefile(source):
            raise UserError(f"--output: found {output}, which is --input, expected another file")
        if source.resolve().is_relative_to(parts.resolve()):
            raise UserError(
                f"--input: found {source}, a file of the unfinished {output}, expected another one"
            )
    if os.path.lexists(output) and not overwrite and not (parts / _JOB).is_file():
        if parts.is_dir():
            # A kill came when the output was made and its parts were being removed.
            with held(parts, "job"):
                _remove(parts)
        raise _taken(output)


def require_new(output: Path, overwrite: bool) -> None:
    """Refuses an output that is there and may not be replaced.

    Raises:
        UserError: naming it.
    """
    if os.path.lexists(output) and not overwrite:
        raise _taken(output)


def _taken(output: Path) -> UserError:
    return UserError(f"--output: found {output}, expected no such file, or --overwrite")


def _remove(parts: Path) -> None:
    """Removes what a job wrote, its sign first: parts without it belong to a finished output."""
    (parts / _JOB).unlink(missing_ok=True)
    remove_leftovers(parts)
    _remove_answers(parts)
    (parts / ".job.lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file of someone else's is in it
        parts.rmdir()


def _remove_answers(parts: Path) -> None:
    """Removes files of the names that a job gives; whatever else is there is someone else's."""
    for path in list(parts.iterdir()):
        if _OWN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _require_free(output: Path, parts: Path, job: BatchJob, overwrite: bool) -> None:
    place = parts / _JOB
    if not place.is_file():
        if os.path.lexists(output) and not overwrite:
            _remove(parts)
            raise _taken(output)
        _remove_answers(parts)  # of a job whose end was cut: whose they are nobody knows any more
        return
    try:
        same = read_sealed_json(place) == json.loads(json.dumps(dict(job.identity)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{place}: damaged ({error}), expected what was asked (delete {parts} to begin again)"
        ) from error
    if same:
        return
    if not overwrite:
        raise UserError(
            f"--output: found {parts}, begun with another model, source or settings, expected the "
            "same, or --overwrite"
        )
    _remove_answers(parts)


def _finished(parts: Path, suffix: str) -> list[Path]:
    """The complete parts, as far as none is missing or damaged."""
    names = (parts / _part_name(number, suffix) for number in itertools.count())
    there = list(itertools.takewhile(Path.is_file, names))
    whole = list(itertools.takewhile(is_sealed, there))
    if len(whole) < len(there):
        _LOG.warning("%s: found it damaged; it is made again", there[len(whole)])
    return whole


def _part_name(number: int, suffix: str) -> str:
    return f"part-{number:06d}{suffix}"


def to_lines(rows: Iterable[Mapping[str, object]], *, ascii_only: bool = False) -> str:
    """JSON lines; `ascii_only` for a stream that can't hold every character as it is."""
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    with writing_sealed(path) as partial:
        if path.suffix == ".jsonl":
            partial.write_text(to_lines(rows), encoding="utf-8")
            return
        pq.write_table(pa.Table.from_pylist(rows, _schema("titles" in rows[0])), partial)


def _schema(titled: bool) -> pa.Schema:
    return _SCHEMA if titled else _SCHEMA.remove(_SCHEMA.get_field_index("titles"))


def _read_rows(path: Path) -> list[Row]:
    content = read_sealed(path)
    if path.suffix == ".jsonl":
        # Not splitlines: a title may hold what Unicode takes for the end of a line.
        return [json.loads(line) for line in content.decode().split("\n") if line]
    return pq.read_table(pa.BufferReader(content)).to_pylist()


def _finish(
    finished: Sequence[Path], output: Path, parts: Path, titled: bool, overwrite: bool
) -> None:
    """Puts the parts together; a kill may have come when the output was in its place already.

    Raises:
        UserError: another file has come there meanwhile.
    """
    joined = parts / f"joined{output.suffix}"
    _join(finished, joined, titled)
    there = os.path.lexists(output) and not overwrite
    if there and not (output.is_file() and file_digest(output) == file_digest(joined)):
        raise _taken(output)
    os.replace(joined, output)
    flush_folder(output.parent)


def _join(parts: Sequence[Path], output: Path, titled: bool) -> None:
    with writing(output) as partial:
        if output.suffix == ".jsonl":
            with partial.open("wb") as stream:
                for part in parts:
                    stream.write(read_sealed(part))
            return
        tables = (pq.read_table(pa.BufferReader(read_sealed(part))) for part in parts)
        with pq.ParquetWriter(partial, _schema(titled)) as writer:
            for table in tables:
                writer.write_table(table)
