"""What students start from, and what they leave behind to be served."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bridge.recbole_layout import layout
from bridge.student_weights import Start, read_start, to_recbole
from experiments.cli.settings import RunConfig, Settings
from experiments.stages.students import Trained, plain_run, run_name
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split
from prmkd_jax.serve.exported import CARD, RECBOLE_FILE, WEIGHTS, blank, export_student, shapes
from prmkd_jax.students.config import BUILT_IN
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import create_student


def student_start(settings: Settings, dataset: Dataset, split: Split) -> Start | None:
    """What `--student_init` names; None where it names nothing.

    It comes before anything is trained, so that a mistake here, a student that can't be made, or
    an export that RecBole has no model for, is told before the hours are spent.

    Raises:
        UserError: there is no such student or file, the file's weights don't fit, or
            `--export_recbole` can't be done.
    """
    facts, start = _facts(settings, dataset, split), None
    if settings.student.student in BUILT_IN:
        blank(settings.student, facts)
    else:
        # A user's own class need not be one that can be traced.
        create_student(settings.student, facts, settings.run.seeds[0])
    if settings.run.student_init:
        start = read_start(_start_path(settings), settings.student, facts)
    if settings.run.export_recbole:
        sizes = shapes(blank(settings.student, facts))
        layout(settings.student.student, sizes, dataset, {}, "--export_recbole")
    return start


def student_file_names(run: RunConfig) -> list[str]:
    """The files that `export` writes for each student."""
    return [WEIGHTS, CARD, *([RECBOLE_FILE] if run.export_recbole else [])]


def start_digest(settings: Settings) -> str:
    """SHA-256 over the weights that `--student_init` names, wherever they lie.

    Raises:
        UserError: there is no such file.
    """
    path = _start_path(settings)
    with (path / WEIGHTS if path.is_dir() else path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def export(
    folder: Path,
    students: Mapping[str, Sequence[Trained]],
    settings: Settings,
    dataset: Dataset,
    split: Split,
    start: Start | None,
) -> None:
    """Writes trained students; with `--export_recbole` under RecBole's keys too.

    Args:
        folder: gets a folder for each, named as in the log.
        students: variant → the student of every seed.
        settings: which student it is.
        dataset: what it was trained on.
        split: its parts.
        start: what it started from: RecBole's rows are written as its file has them.
    """
    facts, config = _facts(settings, dataset, split), settings.student
    recbole = None if start is None else start.recbole
    for variant, trained in students.items():
        for one in trained:
            place = folder / run_name(settings, one.seed, distilled=variant != "base")
            export_student(place, one.fitted.params, config, facts)
            if settings.run.export_recbole:
                weights = to_recbole(one.fitted.params, config, facts, recbole)
                tokens = _tokens(dataset) if recbole is None else recbole.tokens
                _save_recbole(place / RECBOLE_FILE, weights, tokens)


def _tokens(dataset: Dataset) -> dict[str, list[str]]:
    """Which item and user each row of RecBole's tables stands for."""
    ids = {"item_id": dataset.item_ids, "user_id": dataset.user_ids}
    return {field: ["[PAD]", *known] for field, known in ids.items()}


def _save_recbole(
    path: Path, weights: dict[str, torch.Tensor], tokens: Mapping[str, Sequence[str]]
) -> None:
    content: dict[str, Any] = {"state_dict": weights}
    # A start whose rows nobody has named leaves rows that nobody can name.
    if tokens:
        content["field2id_token"] = tokens
    beside = path.with_name(f"{path.name}.part")
    torch.save(content, beside)
    os.replace(beside, path)


def _start_path(settings: Settings) -> Path:
    path = Path(settings.run.student_init)
    if not (path / WEIGHTS if path.is_dir() else path).is_file():
        raise UserError(
            f"--student_init: found no weights at {path}, expected the folder of an exported "
            "student or a .pth file of RecBole's"
        )
    return path


def _facts(settings: Settings, dataset: Dataset, split: Split) -> Facts:
    return plain_run(dataset, split, settings, settings.run.seeds[0], Path()).facts
