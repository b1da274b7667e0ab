"""A finished run's record: what is known of it, each figure under one name with one unit.

docs/records.md lists the keys. Tables, figures, pages and the results of a study are made of
records and of the ranks and seconds next to them; nothing else describes a run.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cli.settings import Settings
from experiments.stages.lists import Figures, SegmentFigures
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import read_json
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.dataset import table_statistics
from prmkd_jax.data.task import Task

SCHEMA_VERSION = 2
"""Version of the records and results that are written and read (docs/records.md)."""
RECORD = "record.json"

# Of a teacher's card, what depends on no clock.
_CARD = (
    "start",
    "seed",
    "settings",
    "validation",
    "test",
    "table_bytes",
    "epochs",
    "best_epoch",
    "tied_items",
    "chosen",
)


@dataclasses.dataclass(frozen=True)
class SeedResult:
    """What one seed's training gave.

    Attributes:
        seed: the student's seed.
        validation: metrics on the validation part, history not masked.
        test: metrics on the test part, history not masked; None where it was not to be ranked.
        test_masked: the same with the items of the history taken out; None like `test`.
        best_epoch: the epoch that was kept, counted from 1; 0 is the start.
        epochs: epochs trained.
        threshold: epsilon of the consistency rule; None where it never acts.
        history: one entry an epoch: losses, gradient norm, validation, teachers.
        test_before_refit: `test` of the student that validation chose, where `--refit` has
            trained another, of which `test` and `test_masked` are then; else None.
        lists: measures of the test part's lists of ten, see `stages.lists`; None like `test`, and
            in records of before it was measured.
        segment_lists: the same by segments of the instances.
    """

    seed: int
    validation: dict[str, float]
    test: dict[str, float] | None
    test_masked: dict[str, float] | None
    best_epoch: int
    epochs: int
    threshold: float | None
    history: list[dict[str, Any]]
    test_before_refit: dict[str, float] | None = None
    lists: Figures | None = None
    segment_lists: SegmentFigures | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """A run: one variant with all of its seeds. `as_json` is what record.json holds.

    Attributes:
        identity: all that its numbers depend on, but for the seeds (`stages.identity`).
        student: `name` and `label`.
        method: `name` and `label` of the distillation; None for the student alone.
        data: the data set, see `describe_data`.
        split: the split, see `describe_split`.
        environment: machine and versions of the newest seed, see `stages.environment`.
        settings: every flag's value.
        teachers: name → what its card says, but for the clock.
        teacher_weights: name → weight before exclusion; None for the student alone.
        parameters: numbers that serving needs.
        seeds: the results, by rising seed.
    """

    identity: Mapping[str, Any]
    student: Mapping[str, str]
    method: Mapping[str, str] | None
    data: Mapping[str, Any]
    split: Mapping[str, Any]
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    teachers: Mapping[str, Mapping[str, Any]]
    teacher_weights: Mapping[str, float] | None
    parameters: int
    seeds: tuple[SeedResult, ...]

    def as_json(self) -> dict[str, object]:
        """The content of record.json."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    def of_seeds(self, seeds: Iterable[int]) -> "Record":
        """The record with only these seeds, in this order."""
        found = {result.seed: result for result in self.seeds}
        return dataclasses.replace(self, seeds=tuple(found[seed] for seed in seeds))


def add_seed(record: Record, before: Record | None) -> Record:
    """A record of one seed together with those that were trained before.

    Args:
        record: record of the newest seed.
        before: record of the same run; None for the first seed.
    """
    known = () if before is None else before.seeds
    newest = {result.seed for result in record.seeds}
    seeds = [*(result for result in known if result.seed not in newest), *record.seeds]
    return dataclasses.replace(record, seeds=tuple(sorted(seeds, key=lambda each: each.seed)))


def write_record(folder: Path, record: Record) -> None:
    """Writes record.json, complete or not at all."""
    write_sealed_json(folder / RECORD, record.as_json())


def read_record(folder: Path) -> Record | None:
    """The record in a run's folder; None where there is none.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    content = read_versioned(path)
    try:
        seeds = tuple(SeedResult(**result) for result in content.pop("seeds"))
        del content["schema_version"]
        return Record(**content, seeds=seeds)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}), expected a run's record") from error


def read_versioned(path: Path) -> dict[str, Any]:
    """JSON with a schema version: a record, or the results of a study.

    Raises:
        UserError: it is missing, damaged, or of another version.
    """
    # First, since what another version wrote may have no digest.
    with contextlib.suppress(OSError, ValueError):
        _require_version(path, read_json(path))
    return read_results(path)


def _require_version(path: Path, content: object) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema_version: found {version}, expected {SCHEMA_VERSION}: it was written "
            "by another version of this program; run the command again, into another folder"
        )


def read_results(path: Path) -> dict[str, Any]:
    """A sealed JSON file that a run has left.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        content = read_sealed_json(path)
        # A text with half a character can be shown nowhere.
        json.dumps(content, ensure_ascii=False).encode()
        return content
    except OSError as error:
        raise UserError(f"{path}: missing, expected the results of a finished run") from error
    except ValueError as error:
        raise UserError(
            f"{path}: damaged ({first_line(error)}), expected what a run has written (delete the "
            "file; the same command writes it again)"
        ) from error


@contextlib.contextmanager
def complete(path: Path) -> Iterator[None]:
    """Shows what `read_versioned` read; what the file lacks is told in one line.

    Raises:
        UserError: something is missing in it, or of another kind.
    """
    try:
        yield
    # What is of another kind shows in many ways: no format for it, no smallest of none.
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {first_line(error)}), expected the results "
            "of a finished run as they were written"
        ) from error


def card_record(record: Record) -> dict[str, object]:
    """What an exported student's card tells of one seed: no path, no clock.

    Args:
        record: the record of one seed.
    """
    (result,) = record.seeds
    data, figures = dict(record.data), dataclasses.asdict(result)
    del figures["history"], figures["segment_lists"]
    # Without the examples: they are ids of users.
    remarks = [
        {name: line[name] for name in ("name", "number", "of", "warning")}
        for line in data.pop("sheet")
        if line["warning"]
    ]
    return {
        **figures,
        "method": record.method,
        "teachers": record.teachers,
        "teacher_weights": record.teacher_weights,
        "parameters": record.parameters,
        "settings": record.identity["settings"],
        # Whose weights the student began from may have seen more than the training part.
        "student_init": record.identity.get("student_init"),
        "data": data,
        "split": record.split,
        "remarks": remarks,
        # Of the data and so of what was learned from them: whoever hands it on has to say.
        "license": None,
    }


def describe_data(task: Task) -> dict[str, object]:
    """Table 2's statistics, how many test targets the training part lacks, and the data sheet."""
    dataset = task.dataset
    trained = task.training_counts > 0
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        **table_statistics(dataset.interactions, dataset.num_items),
        "cold_targets": int((~trained[task.targets(task.split.test)]).sum()),
        "sheet": task.sheet.as_list(),
    }


def describe_split(task: Task, settings: Settings) -> dict[str, object]:
    """How the task was divided: name, cuts, digest, and the instances of each part."""
    data = settings.data
    return {
        "name": data.split,
        "cuts": list(data.split_at) if data.split == "temporal" else None,
        "candidates": data.candidates,
        "digest": task.split_digest,
        "train": len(task.split.train),
        "validation": len(task.split.validation),
        "test": len(task.split.test),
    }


def describe_teacher(label: str, card: Mapping[str, object]) -> dict[str, object]:
    """A teacher's entry, out of its card; the clock stays outside.

    Args:
        label: display name.
        card: the teacher's card as JSON.
    """
    kept = {key: card[key] for key in _CARD if key in card}
    return {"label": label, "parameters": card["num_parameters"], **kept}


def finite_or_none(value: float) -> float | None:
    """JSON has no infinity: None is "never"."""
    return float(value) if np.isfinite(value) else None
