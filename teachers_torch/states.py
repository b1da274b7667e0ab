"""The state of a training on disk, from which it goes on after a kill with the same numbers."""

import os
from pathlib import Path
from typing import Any

import torch

from prmkd_jax.common.errors import UserError
from teachers_torch.torch_file import read_torch_file


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes numbers, strings and tensors, and torch's random state, beside and renames.

    Args:
        path: replaced if it is there.
        state: what `load_state` returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save({"state": state, "random": random}, partial)
    os.replace(partial, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """Reads what `save_state` wrote and sets torch's random state, or None without a file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    wrong = f"{path}: found no readable training state, expected one (delete it to start over)"
    try:
        content = read_torch_file(path)
    except UserError as error:
        raise UserError(wrong) from error
    match content:
        case {"state": dict() as state, "random": {"cpu": torch.Tensor() as cpu, **others}}:
            pass
        case _:
            raise UserError(wrong)
    torch.set_rng_state(cpu)
    if "cuda" in others and torch.cuda.is_available():
        torch.cuda.set_rng_state(others["cuda"])
    return state
