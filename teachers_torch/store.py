"""Tuned teachers on disk: safetensors and a json card in one folder."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import TeacherConfigs
from teachers_torch.items.inputs import Log
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.registry import build
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.tuning import Teacher, TeacherCard, seeded

WEIGHTS, CARD = "weights.safetensors", "card.json"


def save(teacher: Teacher, card: TeacherCard, folder: Path) -> None:
    """Writes a teacher beside `folder`, then renames, so that the folder is never partial.

    An existing folder is replaced. A `precomputed` teacher has no weights, only its card.
    """
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if isinstance(teacher, TunedTeacher | RecformerTeacher):
        weights = {key: value.contiguous() for key, value in teacher.model.state_dict().items()}
        safetensors.torch.save_file(weights, partial / WEIGHTS)
    save_card(card, partial)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def save_card(card: TeacherCard, folder: Path) -> None:
    """Replaces the card of a saved teacher."""
    partial = folder / f"{CARD}.partial-{os.getpid()}"
    text = json.dumps(dataclasses.asdict(card), indent=2, sort_keys=True)
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, folder / CARD)


def load(
    name: str,
    folder: Path,
    dataset: Dataset,
    configs: TeacherConfigs,
    *,
    cache_dir: Path,
    log: Log,
) -> tuple[Teacher, TeacherCard]:
    """Reads what `save` wrote; data set and configs must be those it was tuned with.

    Raises:
        UserError: a file is missing or damaged, or the weights are another model's.
    """
    try:
        card = TeacherCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder / CARD}: found no teacher card, expected one") from error
    # The weights drawn here are overwritten; the caller's random state is not to notice.
    with seeded(0):
        teacher = build(name, dataset, configs, cache_dir, log)
    if isinstance(teacher, TunedTeacher | RecformerTeacher):
        try:
            teacher.model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder / WEIGHTS}: found no weights that fit, expected those of {name} tuned "
                "with this configuration (delete the folder to tune again)"
            ) from error
    return teacher, card
