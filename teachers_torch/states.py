"""torch's random state and weights: seeded for a while, and on disk."""

import contextlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import nn

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import writing
from prmkd_jax.common.sealed import read_sealed, seal
from prmkd_jax.common.weights import require_numbers
from teachers_torch.torch_file import read_torch_stream

_LOG = logging.getLogger(__name__)
# What the state before is called: it takes the place of a damaged one.
BEFORE = ".before"


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators; at the end they have their former state again."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def best_device() -> torch.device:
    """Where teachers are trained: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_tensors(weights: Mapping[str, torch.Tensor], source: str) -> None:
    """`require_numbers` of tensors.

    Raises:
        UserError: one is of no floating type, or not finite; a model's count of batches may be
            an integer.
    """
    floats = {name: x.float() if x.is_floating_point() else x for name, x in weights.items()}
    require_numbers({name: x.detach().cpu().numpy() for name, x in floats.items()}, source)


def require_complete(missing: Iterable[str], source: str) -> None:
    """Refuses weights that an encoder's files lack: Hugging Face's loaders draw them at random.

    Args:
        missing: names of the weights that the loader didn't find.
        source: the beginning of the error message.

    Raises:
        UserError: there are some, but for a pooler's, which no vector that is read comes from and
            many files lack.
    """
    lost = sorted(name for name in missing if "pooler" not in name)
    if lost:
        raise UserError(
            f"{source} without {len(lost)} of its weights, such as {lost[0]}, expected all"
        )


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a state dict as safetensors, readable by whoever may read the folder."""
    weights = {key: value.contiguous() for key, value in module.state_dict().items()}
    path.write_bytes(safetensors.torch.save(weights))  # save_file would set mode 0600


def save_state(path: Path, state: Mapping[str, object]) -> None:
    """Writes the state of a training and torch's random state, sealed.

    Args:
        path: the state that is there becomes the one before.
        state: numbers, strings and tensors; `load_state` returns them.
    """
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    # In memory first: what PyTorch's own writer says of a full disk is another error every time.
    buffer = io.BytesIO()
    torch.save({"state": state, "random": random}, buffer)
    with writing(path) as partial:
        partial.write_bytes(buffer.getbuffer())
        seal(partial)
        if path.exists():
            os.replace(path, before(path))


def load_state(path: Path) -> dict[str, Any] | None:
    """Reads what `save_state` wrote and sets torch's random state; None without a file.

    In place of a damaged state the one before is read, with a warning.

    Raises:
        UserError: the state is damaged, and so is the one before, or there is none.
    """
    there = [each for each in (path, before(path)) if each.exists()]
    for each in there:
        content = _read(each)
        if content is not None:
            if each != there[0]:
                _LOG.warning("%s: found it damaged; going on from the state before", path)
            return _restored(content)
    if not there:
        return None
    names = " and ".join(each.name for each in there)
    raise UserError(
        f"{path}: found no readable training state, expected one (delete {names} in "
        f"{path.parent} to start over)"
    )


def remove_state(path: Path) -> None:
    """Removes the state and the one before."""
    for each in (path, before(path)):
        each.unlink(missing_ok=True)


def before(path: Path) -> Path:
    """Where the state before is kept."""
    return path.with_name(path.name + BEFORE)


def _read(path: Path) -> dict[str, Any] | None:
    """A state file's content; None if it is damaged."""
    try:
        content = read_sealed(path)
        found = read_torch_stream(path, io.BytesIO(content), len(content))
    except (OSError, ValueError, UserError):
        return None
    match found:
        case {"state": dict(), "random": {"cpu": torch.Tensor()}}:
            return cast("dict[str, Any]", found)
    return None


def _restored(content: dict[str, Any]) -> dict[str, Any]:
    """Sets torch's random state; returns the training's."""
    torch.set_rng_state(content["random"]["cpu"])
    if "cuda" in content["random"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(content["random"]["cuda"])
    return content["state"]
