"""Students' weights in and out: RecBole's torch `state_dict`, and what was exported here."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bridge.recbole_layout import layout, unstated_settings
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.weights import require_weights
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.exported import WEIGHTS, read_params
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.student import (
    Params,
    abstract_params,
    flatten_params,
    param_shapes,
    unflatten_params,
)
from teachers_torch.recbole_file import Checkpoint, read_recbole, require_settings
from teachers_torch.states import require_tensors


class StudentStart(NamedTuple):
    """What a student starts from.

    Attributes:
        params: the parameters.
        recbole: RecBole's file that they come from, or None for an exported student.
        digest: SHA-256 of the weights' file, which tells runs of different starts apart.
    """

    params: Params
    recbole: Checkpoint | None
    digest: str


def weights_file(path: Path) -> Path:
    """The file that holds the weights which `--init=student=PATH` names.

    Args:
        path: a folder of `export_student`, the `.safetensors` file in it, or a `.pth` file.

    Raises:
        UserError: there is no such file, or it is not the exported student's own.
    """
    if path.suffix == ".safetensors" and path.name != WEIGHTS:
        raise UserError(f"--init=student: found {path}, expected {WEIGHTS} or its folder")
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"--init=student: found no weights at {path}, expected the folder of an exported "
            "student or a .pth file of RecBole's"
        )
    return file


def student_start_digest(path: Path) -> str:
    """SHA-256 of those weights, 64 hex digits, wherever the file is."""
    return file_digest(weights_file(path))


def read_student_start(
    path: Path, config: StudentConfig, facts: Facts, dataset: Dataset
) -> StudentStart:
    """Reads what `--init=student=PATH` names: an exported student, or a file of RecBole's.

    Args:
        path: the weights, as in `weights_file`.
        config: the student that starts from them.
        facts: the facts it is made with.
        dataset: the data set whose items and users the rows stand for.

    Raises:
        UserError: it is neither, or of another student, other sizes or other items.
    """
    file = weights_file(path)
    digest = file_digest(file)
    if file.name == WEIGHTS:
        return StudentStart(read_params(file.parent, config, facts, dataset), None, digest)
    checkpoint = read_recbole(file)
    params = from_recbole(checkpoint, config, facts, dataset, str(path))
    return StudentStart(params, checkpoint, digest)


def from_recbole(
    checkpoint: Checkpoint, config: StudentConfig, facts: Facts, dataset: Dataset, source: str
) -> Params:
    """A student's parameters out of RecBole's.

    Args:
        checkpoint: RecBole's model of the same name.
        config: the student, of the same sizes as the file.
        facts: the facts it is made with.
        dataset: the data set, all of whose items must be in the file.
        source: file name for error messages.

    Raises:
        UserError: keys are missing, surplus or of another shape (all of them are listed), the
            file's configuration says otherwise, or an item or user is missing.
    """
    like = abstract_params(config, facts)
    placed = layout(config, param_shapes(like), dataset, checkpoint.tokens, source)
    require_settings(checkpoint, unstated_settings(config), source)
    found = {key: tuple(value.shape) for key, value in checkpoint.weights.items()}
    require_weights(found, placed.shapes, source)
    require_tensors(checkpoint.weights, source)
    theirs = {key: value.float().numpy() for key, value in checkpoint.weights.items()}
    ours = {}
    for name, keys in placed.keys.items():
        parts = [theirs[key] for key in keys]
        if name in placed.rows:
            ours[name] = parts[0][placed.rows[name]]
        else:
            table = name.endswith(".table")
            ours[name] = parts[0] if table else np.concatenate([x.T for x in parts], axis=-1)
    return unflatten_params(ours, like)


def to_recbole(
    params: Params, config: StudentConfig, dataset: Dataset, start: Checkpoint | None = None
) -> dict[str, Tensor]:
    """A student's parameters under RecBole's keys, float32.

    Args:
        params: the parameters.
        config: the student's settings.
        dataset: the data set that its rows stand for.
        start: RecBole's file that the student came from. Its numbering is kept, and so are the
            rows of [PAD] and of items and users that the data set doesn't have; without it
            [PAD] is zero.

    Raises:
        UserError: RecBole has no such student.
    """
    tokens = {} if start is None else start.tokens
    placed = layout(config, param_shapes(params), dataset, tokens, "--export_recbole")
    before = {} if start is None else start.weights
    out = {
        key: before[key].float().clone() if key in before else torch.zeros(shape)
        for key, shape in placed.shapes.items()
    }
    for name, value in flatten_params(params).items():
        keys, array = placed.keys[name], torch.tensor(value)
        if name in placed.rows:
            out[keys[0]][torch.from_numpy(placed.rows[name])] = array
        elif name.endswith(".table"):
            out[keys[0]] = array
        else:
            parts = array.chunk(len(keys), dim=-1)
            out.update((k, p.t().contiguous()) for k, p in zip(keys, parts, strict=True))
    return out
