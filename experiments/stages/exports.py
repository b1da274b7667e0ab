"""What students start from, and what they leave to be served."""

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bridge.recbole_layout import layout
from bridge.student_weights import StudentStart, read_student_start, to_recbole
from experiments.cli.settings import RunConfig, Settings
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.task import Task
from prmkd_jax.serve.exported import FILES, RECBOLE_FILE, export_student
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import class_identity, with_loss
from prmkd_jax.students.student import Params, abstract_params, create_student, param_shapes

# Of every weight: itself, its gradient and Adam's two moments; of float32.
_COPIES = 4
_BYTES = 4


def student_start(settings: Settings, task: Task, facts: Facts) -> StudentStart | None:
    """What the student starts from by `--init`; None where it names nothing.

    It comes before anything is trained, so that a mistake here, a student that can't be made, or
    an export that RecBole has no model for, is reported before the hours are spent.

    Raises:
        UserError: there is no such student or file, the file's weights don't fit, or
            `--export_recbole` can't be done.
    """
    if not class_identity(settings.student.student):
        _require_memory(abstract_params(settings.student, facts), settings)
    else:
        # A user's own class need not be one that can be traced.
        create_student(settings.student, facts, settings.run.seeds[0])
    if settings.run.export_recbole:
        sizes = param_shapes(abstract_params(settings.student, facts))
        layout(settings.student, sizes, task.dataset, {}, "--export_recbole")
    if not settings.run.student_init:
        return None
    path = Path(settings.run.student_init)
    return read_student_start(path, settings.student, facts, task.dataset)


def _require_memory(params: Params, settings: Settings) -> None:
    """Refuses sizes that no training on this machine could hold.

    Raises:
        UserError: weights, gradients and Adam's two moments take more than there is.
    """
    numbers = sum(math.prod(shape) for shape in param_shapes(params).values())
    needed = _COPIES * _BYTES * numbers
    there = physical_memory()
    if needed > there:
        raise UserError(
            f"--student={settings.student.student}: found {numbers:,} parameters, which take "
            f"{needed / 2**30:,.0f} GiB to train, expected what fits into the {there / 2**30:,.0f} "
            "GiB of this machine (a smaller --hidden_size, for one)"
        )


def physical_memory() -> float:
    """Bytes of memory that the machine has; infinite where the system doesn't say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf


def student_file_names(run: RunConfig) -> list[str]:
    """The files that `export` writes for each student."""
    return [*FILES, *([RECBOLE_FILE] if run.export_recbole else [])]


def export(
    folder: Path,
    params: Params,
    settings: Settings,
    task: Task,
    facts: Facts,
    start: StudentStart | None,
    result: Mapping[str, object],
) -> None:
    """Writes a trained student; with `--export_recbole` under RecBole's keys too.

    Args:
        folder: the student's own; replaced.
        params: the student's parameters.
        settings: the run's settings.
        task: the data and split of its training.
        facts: the facts that it was made with.
        start: the weights that it started from: RecBole's rows are written as its file has them.
        result: seed and metrics, for its card.
    """
    dataset = task.dataset
    config = with_loss(settings.student, dataset.num_items)
    export_student(folder, params, config, facts, dataset, result)
    if settings.run.export_recbole:
        recbole = None if start is None else start.recbole
        weights = to_recbole(params, config, dataset, recbole)
        tokens = _tokens(dataset) if recbole is None else recbole.tokens
        _save_recbole(folder / RECBOLE_FILE, weights, tokens)


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
    # In memory first: of a full disk PyTorch's own writer says something else every time.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with writing(path) as partial:
        partial.write_bytes(buffer.getbuffer())
