"""RecBole's checkpoint files, UniSRec's among them: read without running what is in them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from prmkd_jax.common.errors import UserError, printable, shortened
from teachers_torch.pickled import Inert
from teachers_torch.torch_file import read_torch_file

# What RecBole's pickled configuration names, UniSRec's own for several processes ("config.")
# included; none is needed, all become `Inert`. Some Pythons (3.11.2, for one) write a member of an
# enumeration as a call of getattr, which has another name in old protocols.
BUILTINS = ("builtins.getattr", "__builtin__.getattr", "builtins.set", "__builtin__.set")
IGNORED = ("recbole.", "unisrec.", "config.", "yaml.", "numpy.", "_codecs.", *BUILTINS)
LONGEST_NAME = 200  # of a parameter
PAD = "[PAD]"  # what RecBole calls its row 0


class Checkpoint(NamedTuple):
    """What is read of a file.

    Attributes:
        weights: the model's `state_dict`.
        tokens: field → the id of every row, [PAD]'s first, where the file has a
            `field2id_token` (RecBole's name for it; RecBole itself keeps it with the data set).
        settings: the numbers and words of its `config`, where it has one.
    """

    weights: dict[str, Tensor]
    tokens: dict[str, list[str]]
    settings: dict[str, int | float | str]


def read_recbole(path: Path) -> Checkpoint:
    """Reads a file of RecBole's trainer, or a `state_dict` that was saved alone.

    Classes of RecBole's configuration become inert, anything else but tensors and plain values
    is refused, and no code of the file runs; see `read_torch_file`.

    Raises:
        UserError: it is no such file, or it names something that has no place in one.
    """
    content = read_torch_file(path, IGNORED)
    if not isinstance(content, dict):
        content = {}
    alone = bool(content) and all(isinstance(value, Tensor) for value in content.values())
    weights = content if alone else content.get("state_dict")
    if not isinstance(weights, dict):
        raise UserError(f"{path}: found no readable state_dict, expected one")
    _require_tensors(weights, path)
    if alone:
        return Checkpoint(dict(weights), {}, {})
    tokens = _tokens(content.get("field2id_token", {}), path)
    return Checkpoint(dict(weights), tokens, _settings(content.get("config")))


def require_settings(
    checkpoint: Checkpoint, expected: Mapping[str, tuple[int | float | str, str]], source: str
) -> None:
    """Compares what the weights' shapes don't tell; a setting that the file lacks isn't compared.

    Args:
        checkpoint: the file's content.
        expected: RecBole's name of a setting → its value here, and the flag to change it by, ""
            where there is none.
        source: the file's name in error messages.

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


def _require_tensors(weights: dict[object, object], path: Path) -> None:
    """Checks that every value is a tensor, and every name one that an error can show."""
    for name, value in weights.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > LONGEST_NAME:
            raise UserError(
                f"{path}: state_dict: found {repr(name)[:LONGEST_NAME]}, expected a parameter's "
                "name"
            )
        if not isinstance(value, Tensor):
            raise UserError(f"{path}: state_dict: found no tensor at {name!r}, expected one")


def _settings(config: object) -> dict[str, int | float | str]:
    """The plain values of RecBole's configuration, which keeps them in one dictionary.

    A text that doesn't fit one line is left out; no setting that is compared is one.
    """
    values = config.attributes if isinstance(config, Inert) else config
    if isinstance(values, dict):
        values = values.get("final_config_dict", values)
    if not isinstance(values, dict):
        return {}
    found: dict[str, int | float | str] = {}
    for key, value in values.items():
        plain = isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)
        short = isinstance(value, str) and len(value) <= LONGEST_NAME and value.isprintable()
        if isinstance(key, str) and (plain or short):
            found[key] = value
    return found


def _tokens(tokens: object, path: Path) -> dict[str, list[str]]:
    """Checks that every field's ids are a list of texts, [PAD] and then each id once.

    NumPy's arrays are not read.
    """
    found: dict[str, list[str]] = {}
    for field, ids in (tokens if isinstance(tokens, dict) else {"": [None]}).items():
        given = ids if isinstance(ids, list) else [None]
        texts = [one for one in given if isinstance(one, str)]
        if not isinstance(field, str) or len(texts) != len(given):
            raise UserError(
                f"{path}: field2id_token: found something else than a list of texts for each "
                "field, expected that (`tolist` makes one of an array)"
            )
        shown = shortened(printable(field))
        if texts[:1] != [PAD]:
            first = shortened(repr(texts[0])) if texts else "nothing"
            raise UserError(
                f"{path}: field2id_token: {shown}: found {first} for row 0, expected {PAD!r}"
            )
        if len(set(texts)) < len(texts):
            again, _ = Counter(texts).most_common(1)[0]
            raise UserError(
                f"{path}: field2id_token: {shown}: found {shortened(repr(again))} twice, expected "
                "each id once: a row stands for one"
            )
        found[field] = texts
    return found
