"""What students start from, and what they leave behind to be served."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bridge import student_weights
from bridge.recbole_layout import layout
from bridge.student_weights import Start, read_start, to_recbole
from experiments.cli.settings import Settings
from experiments.stages.students import Trained, plain_run
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split
from prmkd_jax.serve.exported import export_student
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import result_name
from prmkd_jax.students.student import abstract_params, param_shapes

RECBOLE_FILE = "recbole.pth"


def student_start(settings: Settings, dataset: Dataset, split: Split) -> Start | None:
    """What `--student_init` names; None where it names nothing.

    It comes before anything is trained, so that a mistake here, or an export that
    RecBole has no model for, is told before the hours are spent.

    Raises:
        UserError: there is no such file, its weights don't fit, or `--export_recbole` can't be
            done.
    """
    facts, start = _facts(settings, dataset, split), None
    if settings.run.student_init:
        start = read_start(Path(settings.run.student_init), settings.student, facts, dataset)
    if settings.run.export_recbole:
        sizes = param_shapes(abstract_params(settings.student, facts))
        layout(settings.student.student, sizes, dataset, {}, "--export_recbole")
    return start


def start_digest(settings: Settings) -> str:
    """SHA-256 over the weights that `--student_init` names, wherever they lie.

    Raises:
        UserError: there is no such file.
    """
    return student_weights.start_digest(Path(settings.run.student_init))


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
            trained_as = "base" if variant == "base" else settings.distill.method
            place = folder / f"{result_name(config)}-{trained_as}-seed{one.seed}"
            export_student(place, one.fitted.params, config, facts, dataset)
            if settings.run.export_recbole:
                weights = to_recbole(one.fitted.params, config, dataset, recbole)
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


def _facts(settings: Settings, dataset: Dataset, split: Split) -> Facts:
    return plain_run(dataset, split, settings, settings.run.seeds[0], Path()).facts
