"""Tuned teachers on disk: safetensors and a JSON card in one folder."""

import dataclasses
import platform
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing_folder
from prmkd_jax.common.sealed import read_sealed_json, write_sealed_json
from prmkd_jax.data.task import Task
from teachers_torch.config import CARD
from teachers_torch.registry import identity, kind
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import save_weights, seeded
from teachers_torch.teacher import AnyTeacher, Identity, Log, TeacherCard

WEIGHTS = "weights.safetensors"
_WEIGHTS_DIGEST = "weights_sha256"


def save(teacher: AnyTeacher, card: TeacherCard, folder: Path) -> None:
    """Writes weights and card; an existing folder is replaced.

    A teacher without a module, such as `precomputed`, has only its card.
    """
    module = kind(card.name).module(teacher)
    with writing_folder(folder) as partial:
        if module is not None:
            save_weights(module, partial / WEIGHTS)
        save_card(card, partial)


def save_card(card: TeacherCard, folder: Path) -> None:
    """Replaces the card of a saved teacher; it holds the digest of the weights."""
    weights = folder / WEIGHTS
    digest = file_digest(weights) if weights.exists() else None
    write_sealed_json(folder / CARD, {**dataclasses.asdict(card), _WEIGHTS_DIGEST: digest})


def read_card(folder: Path) -> TeacherCard:
    """The card of a saved teacher.

    Raises:
        UserError: it is missing or damaged.
    """
    return _read_card(folder)[0]


def _read_card(folder: Path) -> tuple[TeacherCard, str | None]:
    """The card, and the digest of the weights."""
    try:
        content = read_sealed_json(folder / CARD)
        digest = content.pop(_WEIGHTS_DIGEST)
        return TeacherCard(**content), digest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CARD}: missing or damaged, expected a teacher card (delete {folder} to "
            "tune again)"
        ) from error


def load(
    name: str, folder: Path, task: Task, settings: TeacherSettings, *, cache: Cache, log: Log
) -> tuple[AnyTeacher, TeacherCard]:
    """Reads what `save` wrote; task and settings must be those it was tuned with.

    Raises:
        UserError: a file is missing or damaged, or the weights are another model's.
    """
    card, digest = _read_card(folder)
    chosen = kind(name)
    # The weights drawn here are overwritten; the caller's random state stays as it is.
    with seeded(0):
        teacher = chosen.build(task, settings, cache, log)
    module = chosen.module(teacher)
    if module is not None:
        try:
            if file_digest(folder / WEIGHTS) != digest:
                raise ValueError("they differ from their digest")
            module.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
        except (OSError, ValueError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder / WEIGHTS}: found no weights that fit, expected those of {name} tuned "
                "with this configuration (delete the folder to tune again)"
            ) from error
    return teacher, card


def stored_teacher(
    found: Identity, folder: Path, task: Task, settings: TeacherSettings, cache: Cache
) -> AnyTeacher:
    """Reads what `save` wrote, on another machine than the one that tuned it.

    Raises:
        UserError: as `load`, or the teacher's files are others there.
    """
    here = identity(found.name, task, settings, found.seed)
    if here.key != found.key:
        raise UserError(
            f"teacher {found.name}: found other files on {platform.node()} (key {here.key}), "
            f"expected those of the machine that asks ({found.key})"
        )
    return load(found.name, folder, task, settings, cache=cache, log=lambda event: None)[0]
