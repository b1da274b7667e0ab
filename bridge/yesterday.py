"""Yesterday's student, as `update --from` names it: exported here, or trained by RecBole."""

import dataclasses
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bridge.recbole_layout import recbole_keys
from bridge.student_weights import from_recbole
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Catalogue, Dataset, Interactions
from prmkd_jax.serve.exported import (
    CARD,
    Exported,
    export_student,
    read_exported,
    require_config,
    student_below,
)
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import about
from teachers_torch.recbole_file import Checkpoint, read_recbole


class Yesterday(NamedTuple):
    """Where an update begins.

    Attributes:
        exported: the student.
        source: the student's name in error messages.
        digest: the digest of the student's content.
    """

    exported: Exported
    source: str
    digest: str


def read_yesterday(path: Path, config: StudentConfig, facts: Facts, dataset: Dataset) -> Yesterday:
    """Reads yesterday's student and checks that it is the one to be updated.

    Args:
        path: folder of an exported student, or a .pth file of RecBole's.
        config: today's settings.
        facts: today's.
        dataset: today's; its interactions of known items and users stand for the graph that
            RecBole's LightGCN has outside its file.

    Raises:
        UserError: it is missing, damaged, another student's or of other sizes.
    """
    if path.is_file() and path.suffix == ".pth":
        exported = _from_recbole(path, config, facts, dataset)
        return Yesterday(exported, str(path), file_digest(path))
    if not (path / CARD).is_file():
        raise UserError(
            f"--from: found no student at {path}, expected the folder of an exported one"
            f"{student_below(path)}, or a .pth file of RecBole's"
        )
    exported = read_exported(path)
    require_config(exported.card, config, path)
    # A student with a token of its own has a position for it too.
    found, expected = (
        each.window + about(config.student).own_slot for each in (facts, exported.facts)
    )
    if found != expected:
        raise UserError(
            f"--max_seq_len: found {found}, expected {expected} as the student in {path} was made"
        )
    return Yesterday(exported, str(path), exported.card["digest"])


def _from_recbole(path: Path, config: StudentConfig, facts: Facts, dataset: Dataset) -> Exported:
    """RecBole's model as if it had been exported here.

    Raises:
        UserError: the file names no ids, or as `from_recbole`.
    """
    checkpoint = read_recbole(path)
    items, users = _ids(checkpoint, "item_id", path), ("",)
    if recbole_users(config):
        users = _ids(checkpoint, "user_id", path)
    known = Dataset(
        dataset.name,
        Interactions(np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int32)),
        Catalogue({}),
        users,
        items,
    )
    theirs = dataclasses.replace(
        facts,
        num_users=len(users),
        num_items=len(items),
        edges=_edges(facts, dataset, known),
        item_fields={},
    )
    params = from_recbole(checkpoint, config, theirs, known, str(path))
    with tempfile.TemporaryDirectory() as folder:
        export_student(Path(folder), params, config, theirs, known)
        return read_exported(Path(folder))


def recbole_users(config: StudentConfig) -> bool:
    """Whether RecBole's model of this student has a row for each user."""
    try:
        return bool(recbole_keys(config.student, "user_embedding.table"))
    except KeyError:
        return False


def _ids(checkpoint: Checkpoint, field: str, path: Path) -> tuple[str, ...]:
    tokens = checkpoint.tokens.get(field, [])
    if len(tokens) < 2:
        raise UserError(
            f"{path}: field2id_token: found no {field}s, expected the id of every row "
            "(docs/weights.md, Numbering)"
        )
    return tuple(tokens[1:])


def _edges(facts: Facts, today: Dataset, known: Dataset) -> np.ndarray:
    """Today's training edges between yesterday's users and items, in yesterday's numbers."""
    user_row = {user: row for row, user in enumerate(known.user_ids)}
    item_row = {item: row for row, item in enumerate(known.item_ids)}
    users = np.array([user_row.get(user, -1) for user in today.user_ids])
    items = np.array([item_row.get(item, -1) for item in today.item_ids])
    edges = np.stack([users[facts.edges[0]], items[facts.edges[1]]])
    return np.unique(edges[:, (edges >= 0).all(0)], axis=1).astype(np.int32)
