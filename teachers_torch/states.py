"""torch's random state and weights: seeded for a while, and on disk."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from teachers_torch.torch_file import read_torch_file


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators; at the end they have their former state again."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def best_device() -> torch.device:
    """Where teachers are trained: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a state dict as safetensors, readable by whoever may read the folder."""
    weights = {key: value.contiguous() for key, value in module.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))  # save_file would set mode 0600


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state of a training and torch's random state.

    Args:
        path: replaced if it exists.
        state: numbers, strings and tensors; `load_state` returns them.
    """
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    with writing(path) as partial:
        torch.save({"state": state, "random": random}, partial)


def load_state(path: Path) -> dict[str, Any] | None:
    """Reads what `save_state` wrote and sets torch's random state; None without a file.

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
