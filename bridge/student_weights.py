"""Students' weights in and out: RecBole's torch `state_dict`, and what was exported here."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bridge.recbole_layout import layout
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.weights import require_weights
from prmkd_jax.serve.exported import WEIGHTS, Params, blank, named, read_export, shapes, unnamed
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from teachers_torch.recbole_file import Checkpoint, read_recbole, require_settings


class Start(NamedTuple):
    """What a student starts from.

    Attributes:
        params: its parameters.
        recbole: RecBole's file that they are out of, or None.
    """

    params: Params
    recbole: Checkpoint | None


def read_start(path: Path, config: StudentConfig, facts: Facts) -> Start:
    """Reads what `--init` names for the student: an exported student, or a file of RecBole's.

    Args:
        path: a folder of `export_student`, or the `.safetensors` file in it, or a `.pth` file.
        config: which student.
        facts: its data set.

    Raises:
        UserError: it is neither, or of another student, other sizes or other items.
    """
    if path.is_dir() or path.suffix == ".safetensors":
        folder = path if path.is_dir() else path.parent
        if path not in (folder, folder / WEIGHTS):
            raise UserError(f"--init: student: found {path}, expected {WEIGHTS} or its folder")
        return Start(read_export(folder, config, facts), None)
    checkpoint = read_recbole(path)
    return Start(from_recbole(checkpoint, config, facts, str(path)), checkpoint)


def from_recbole(
    checkpoint: Checkpoint, config: StudentConfig, facts: Facts, source: str
) -> Params:
    """A student's parameters out of RecBole's.

    Args:
        checkpoint: of RecBole's model of the same name.
        config: which student; its sizes must be the file's.
        facts: its data set, all of whose items must be in the file.
        source: how an error names the file.

    Raises:
        UserError: keys are missing, surplus or of another shape (all of them are listed), the
            file's configuration says otherwise, or an item or user is missing.
    """
    require_settings(checkpoint, _untold(config), source)
    like = blank(config, facts)
    placed = layout(config.student, shapes(like), facts.dataset, checkpoint.tokens, source)
    found = {key: tuple(value.shape) for key, value in checkpoint.weights.items()}
    require_weights(found, placed.shapes, source)
    theirs = {key: value.float().numpy() for key, value in checkpoint.weights.items()}
    ours = {}
    for name, keys in placed.keys.items():
        parts = [theirs[key] for key in keys]
        if name in placed.rows:
            ours[name] = parts[0][placed.rows[name]]
        else:
            table = name.endswith(".table")
            ours[name] = parts[0] if table else np.concatenate([x.T for x in parts], axis=-1)
    return unnamed(ours, like)


def _untold(config: StudentConfig) -> dict[str, tuple[int | float | str, str]]:
    """What RecBole's shapes don't tell, by its names: the value here and its flag."""
    if config.student == "lightgcn":
        return {"n_layers": (config.num_layers, "--num_layers")}
    if config.student == "gru4rec":
        return {}
    heads = (config.num_heads, "--num_heads")
    return {"n_heads": heads, "hidden_act": ("gelu", ""), "layer_norm_eps": (1e-12, "")}


def to_recbole(
    params: Params, config: StudentConfig, facts: Facts, start: Checkpoint | None = None
) -> dict[str, Tensor]:
    """A student's parameters under RecBole's keys, float32.

    Args:
        params: the parameters.
        config: which student.
        facts: its data set.
        start: RecBole's file that the student came from. Its numbering is kept, and so are the
            rows of [PAD] and of items and users that the data set doesn't have; without it
            [PAD] is zero.

    Raises:
        UserError: RecBole has no such student.
    """
    tokens = {} if start is None else start.tokens
    placed = layout(config.student, shapes(params), facts.dataset, tokens, "--export_recbole")
    before = {} if start is None else start.weights
    out = {
        key: before[key].float().clone() if key in before else torch.zeros(shape)
        for key, shape in placed.shapes.items()
    }
    for name, value in named(params).items():
        keys, array = placed.keys[name], torch.tensor(value)
        if name in placed.rows:
            out[keys[0]][torch.from_numpy(placed.rows[name])] = array
        elif name.endswith(".table"):
            out[keys[0]] = array
        else:
            parts = array.chunk(len(keys), dim=-1)
            out.update((k, p.t().contiguous()) for k, p in zip(keys, parts, strict=True))
    return out
