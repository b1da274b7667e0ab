"""RecBole's checkpoint files, UniSRec's among them: read without running what is in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prmkd_jax.data.errors import UserError

# What RecBole's pickled configuration names; none is needed, all become `_Inert`. Some Pythons
# (3.11.2, for one) write a member of an enumeration as a call of getattr.
IGNORED = ("recbole.", "unisrec.", "yaml.", "numpy.", "builtins.getattr")


class Checkpoint(NamedTuple):
    """What is read of a file.

    Attributes:
        weights: its `state_dict`.
        tokens: field → the id of every row, [PAD]'s first, where the file has a
            `field2id_token` (RecBole's name for it; RecBole itself keeps it with the data set).
    """

    weights: dict[str, Tensor]
    tokens: dict[str, list[str]]


class _Inert:
    """Stands in for a class or function that isn't needed: takes everything, does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_recbole(path: Path) -> Checkpoint:
    """Reads a file of RecBole's trainer, or a `state_dict` that was saved alone.

    PyTorch's weights-only reader takes the pickle apart: classes of RecBole's configuration
    become inert, any other that is no tensor's is refused, and no code of the file runs.

    Raises:
        UserError: it is no such file, or it names something that has no place in one.
    """
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:  # no zip archive, no pickle in it, not readable, …
        raise UserError(f"{path}: found no checkpoint of torch.save, expected one") from error
    refused = sorted(name for name in named if not name.startswith(IGNORED))
    if refused:
        raise UserError(
            f"{path}: found {', '.join(refused)}, which no checkpoint needs, expected tensors and "
            "RecBole's configuration"
        )
    # A class of its own for each name: the reader tells them apart by name.
    inert: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in named]
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True)
        alone = bool(content) and all(torch.is_tensor(value) for value in content.values())
        weights = dict(content if alone else content["state_dict"])
        tokens = {} if alone else content.get("field2id_token", {})
    except Exception as error:  # a damaged archive fails in many ways
        raise UserError(f"{path}: found no readable state_dict, expected one") from error
    wrong = sorted(key for key, value in weights.items() if not isinstance(value, Tensor))
    if wrong:
        raise UserError(f"{path}: state_dict: found no tensor at {wrong}, expected one")
    return Checkpoint(weights, _tokens(tokens, path))


def _tokens(tokens: Any, path: Path) -> dict[str, list[str]]:
    """Checks that every field's ids are a list of texts; NumPy's arrays are not read."""
    lists = isinstance(tokens, Mapping) and all(isinstance(ids, list) for ids in tokens.values())
    if not lists or not all(isinstance(one, str) for ids in tokens.values() for one in ids):
        raise UserError(
            f"{path}: field2id_token: found something else than a list of texts for each field, "
            "expected that (`tolist` makes one of an array)"
        )
    return dict(tokens)
