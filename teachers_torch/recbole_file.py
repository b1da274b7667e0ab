"""RecBole's checkpoint files, UniSRec's among them: read without running what is in them."""

import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from prmkd_jax.common.errors import UserError

# What RecBole's pickled configuration names, UniSRec's own for several processes ("config.")
# included; none is needed, all become `_Inert`. Some Pythons (3.11.2, for one) write a member of an
# enumeration as a call of getattr, which has another name in old protocols.
BUILTINS = ("builtins.getattr", "__builtin__.getattr", "builtins.set", "__builtin__.set")
IGNORED = ("recbole.", "unisrec.", "config.", "yaml.", "numpy.", "_codecs.", *BUILTINS)
# What tensors are made by.
NEEDED = {
    f"{part.__module__}.{part.__name__}": part
    for part in (
        OrderedDict,
        _rebuild_tensor_v2,
        _rebuild_parameter,
        torch.Size,
        torch.device,
    )
}


class Checkpoint(NamedTuple):
    """What is read of a file.

    Attributes:
        weights: its `state_dict`.
        tokens: field → the id of every row, [PAD]'s first, where the file has a
            `field2id_token` (RecBole's name for it; RecBole itself keeps it with the data set).
        settings: the numbers and words of its `config`, where it has one.
    """

    weights: dict[str, Tensor]
    tokens: dict[str, list[str]]
    settings: dict[str, int | float | str]


class _Inert:
    """Stands in for a class or function that isn't needed: keeps its attributes, does nothing."""

    def __init__(self, *_: Any, **__: Any):
        self.attributes: Any = {}

    def __setstate__(self, attributes: Any) -> None:
        self.attributes = attributes


def read_recbole(path: Path) -> Checkpoint:
    """Reads a file of RecBole's trainer, or a `state_dict` that was saved alone.

    Only what tensors are made by is called; classes of RecBole's configuration become inert,
    anything else is refused, and no code of the file runs. (PyTorch's own weights-only reader
    can't read the pickle protocol of RecBole 1.1 and later.)

    Raises:
        UserError: it is no such file, or it names something that has no place in one.
    """
    refused: set[str] = set()
    try:
        with zipfile.ZipFile(path) as archive:
            names = [Path(name).name for name in archive.namelist()]
        if "data.pkl" not in names or "constants.pkl" in names:  # the latter is TorchScript's
            raise ValueError(names)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: found no checkpoint of torch.save, expected one") from error
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=_pickle_module(refused)
        )
        alone = bool(content) and all(torch.is_tensor(value) for value in content.values())
        weights = dict(content if alone else content["state_dict"])
        tokens = {} if alone else content.get("field2id_token", {})
        settings = {} if alone else _settings(content.get("config") or {})
    except Exception as error:  # a damaged archive fails in many ways
        _require_none(refused, path)
        raise UserError(f"{path}: found no readable state_dict, expected one") from error
    _require_none(refused, path)
    wrong = sorted(key for key, value in weights.items() if not isinstance(value, Tensor))
    if wrong:
        raise UserError(f"{path}: state_dict: found no tensor at {wrong}, expected one")
    return Checkpoint(weights, _tokens(tokens, path), settings)


def require_settings(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int | float | str, str]], source: str
) -> None:
    """Compares what the weights' shapes don't tell; a setting that the file lacks isn't compared.

    Args:
        checkpoint: the file's content.
        expected: RecBole's name of a setting → its value here, and the flag to change it by, ""
            where there is none.
        source: how an error names the file.

    Raises:
        UserError: the model was made with other settings; all of them are listed.
    """
    wrong = [
        f"{name}={checkpoint.settings[name]} in place of {value}{f' ({flag})' if flag else ''}"
        for name, (value, flag) in expected.items()
        if checkpoint.settings.get(name, value) != value
    ]
    if wrong:
        raise UserError(
            f"{source}: config: found {', '.join(wrong)}, expected the settings it is read with"
        )


def _pickle_module(refused: set[str]) -> Any:
    """A stand-in for Python's `pickle` that knows nothing but `NEEDED`.

    Args:
        refused: gets the names of what has no place in a checkpoint; it is never called.
    """

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = f"{module}.{name}"
            if found in NEEDED:
                made = NEEDED[found]
                # A function of its own each time: what a file writes into it stays there.
                return made if isinstance(made, type) else lambda *given: made(*given)
            dtype = getattr(torch, name, None) if module == "torch" else None
            if isinstance(dtype, torch.dtype):
                return dtype
            if not found.startswith(IGNORED):
                refused.add(found)
            return type("Inert", (_Inert,), {})

    return types.SimpleNamespace(
        __name__="pickle",
        Unpickler=Unpickler,
        load=lambda file, **options: Unpickler(file, **options).load(),
    )


def _require_none(refused: set[str], path: Path) -> None:
    if refused:
        raise UserError(
            f"{path}: found {', '.join(sorted(refused))}, which no checkpoint needs, expected "
            "tensors and RecBole's configuration"
        )


def _settings(config: Any) -> dict[str, int | float | str]:
    """The plain values of RecBole's configuration, which keeps them in one dictionary."""
    values = config.attributes if isinstance(config, _Inert) else config
    values = values.get("final_config_dict", values)
    return {key: value for key, value in values.items() if isinstance(value, int | float | str)}


def _tokens(tokens: Any, path: Path) -> dict[str, list[str]]:
    """Checks that every field's ids are a list of texts; NumPy's arrays are not read."""
    lists = isinstance(tokens, Mapping) and all(isinstance(ids, list) for ids in tokens.values())
    if not lists or not all(isinstance(one, str) for ids in tokens.values() for one in ids):
        raise UserError(
            f"{path}: field2id_token: found something else than a list of texts for each field, "
            "expected that (`tolist` makes one of an array)"
        )
    return dict(tokens)
