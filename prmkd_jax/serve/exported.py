"""A trained student as two files: weights in safetensors, and a card that says what they are."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.weights import require_weights
from prmkd_jax.students.config import BUILT_IN, READ_BY, StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import create_student, dotted

WEIGHTS, CARD = "weights.safetensors", "student.json"
# The same weights under RecBole's keys, which the caller may write; older weights' go with them.
RECBOLE_FILE = "recbole.pth"
USER_TABLE = "user_embedding.table"

# Settings under which weights may be read that were trained under others.
_FREE = (
    "dropout",
    "mask_probability",
    "auxiliary_weight",
    "loss",
    "num_negatives",
    "gbce_t",
    "embedding_l2",
)

Params = dict[str, Any]


def named(params: Params) -> dict[str, np.ndarray]:
    """The parameters by dotted name, such as `blocks.0.qkv.kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {dotted(path): np.asarray(leaf) for path, leaf in leaves}


def shapes(params: Params) -> dict[str, tuple[int, ...]]:
    """The shapes by the same names."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {dotted(path): leaf.shape for path, leaf in leaves}


def blank(config: StudentConfig, facts: Facts) -> Params:
    """Shapes and dtypes of a student's parameters; nothing is computed."""
    return jax.eval_shape(lambda: nnx.to_pure_dict(create_student(config, facts, 0)[1]))


def unnamed(weights: dict[str, np.ndarray], like: Params) -> Params:
    """The inverse of `named`, for parameters of this structure; float32 as they are."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: np.array(weights[dotted(path)], leaf.dtype), like
    )


def export_student(folder: Path, params: Params, config: StudentConfig, facts: Facts) -> None:
    """Writes a student; its card comes last: without one there is no student.

    Args:
        folder: made where it is missing; its other files stay.
        params: the parameters.
        config: which student.
        facts: its data set, whose ids name the rows of the tables.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = named(params)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in weights.items()}, partial / WEIGHTS
    )
    card = {
        "config": dataclasses.asdict(config),
        "max_seq_len": facts.max_seq_len,
        "dataset": {"name": facts.dataset.name, "fingerprint": facts.dataset.fingerprint},
        "item_ids": facts.dataset.item_ids,
        "user_ids": facts.dataset.user_ids if _has_users(weights) else None,
        "fields": _fields(weights, facts),
    }
    (partial / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    folder.mkdir(exist_ok=True)
    for name in (CARD, RECBOLE_FILE):
        (folder / name).unlink(missing_ok=True)
    for name in (WEIGHTS, CARD):
        os.replace(partial / name, folder / name)
    partial.rmdir()


def read_export(folder: Path, config: StudentConfig, facts: Facts) -> Params:
    """The parameters that `export_student` wrote, for the same student and the same ids.

    Raises:
        UserError: a file is missing or damaged, or it is another student's or other data's.
    """
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        weights = safetensors.numpy.load_file(folder / WEIGHTS)
        settings, ids = dict(card["config"]), {key: card[key] for key in ("item_ids", "user_ids")}
        fields = dict(card.get("fields", {}))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{folder}: found no whole {CARD} and {WEIGHTS}, expected an exported student"
        ) from error
    _require_settings(folder, settings, config)
    _require_ids(folder, "item_ids", ids["item_ids"], facts.dataset.item_ids)
    if _has_users(weights):
        _require_ids(folder, "user_ids", ids["user_ids"], facts.dataset.user_ids)
    for field, names in _fields(weights, facts).items():
        _require_ids(folder, field, fields.get(field), names)
    like = blank(config, facts)
    require_weights(shapes(weights), shapes(like), str(folder / WEIGHTS))
    return unnamed(weights, like)


def _has_users(weights: Iterable[str]) -> bool:
    """Whether it serves the users that it was trained for, and no others."""
    return any(f".{name}".endswith(f".{USER_TABLE}") for name in weights)


def _require_settings(folder: Path, found: dict[str, Any], config: StudentConfig) -> None:
    """Shapes don't tell heads, nor the steps over a graph."""
    for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
        read = config.student not in BUILT_IN or config.student in READ_BY.get(name, BUILT_IN)
        if read and name in found and name not in _FREE and found[name] != value:
            raise UserError(
                f"--{name}: found {value!r}, expected {found[name]!r} as in {folder / CARD}"
            )


def _fields(weights: Iterable[str], facts: Facts) -> dict[str, list[str]]:
    """The words of the items' fields that have tables, in the order of their rows."""
    parts = {part for name in weights for part in name.split(".")}
    return {name: list(f.names) for name, f in facts.item_fields.items() if name in parts}


def _require_ids(
    folder: Path, field: str, found: Sequence[str] | None, expected: Sequence[str]
) -> None:
    """Rows that stand for other items, users or words would be read as these."""
    if list(found or ()) != list(expected):
        raise UserError(
            f"{folder / CARD}: {field}: found {len(found or ())} that differ from the data set's "
            f"{len(expected)}, expected the same in the same order"
        )
