"""A trained student as a folder that can be opened and can score by itself.

`student.json`         the card: which student, which data, sizes, digests of the other files
`ids.json`             ids (and titles) of the items, ids of the users where they have vectors,
                       words of the items' fields
`weights.safetensors`  the parameters, all that training goes on from
`served.safetensors`   what only serving reads: finished item vectors, user vectors where they
                       depend on no prefix, the arrays of `Facts` that scoring reads

Training data, torch and orbax are not needed to read it, and nothing of optax is called.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.numpy
from jaxtyping import Float
from safetensors import SafetensorError

from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import write_json, writing_into
from prmkd_jax.common.reading import open_regular, read_json, unchanged
from prmkd_jax.common.weights import require_numbers, require_weights
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.serve.card import Card
from prmkd_jax.serve.contents import (
    read_options,
    require_card,
    require_ids,
    require_same_ids,
)
from prmkd_jax.serve.served import (
    FOLD_IN,
    ITEMS,
    USERS,
    fact_arrays,
    read_facts,
    require_served,
    require_widths,
    served_arrays,
)
from prmkd_jax.students.config import STUDENT_NAMES, StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import (
    about,
    class_identity,
    heads_fit,
    label,
    result_name,
    weights_depend_on,
)
from prmkd_jax.students.student import (
    Params,
    abstract_params,
    flatten_params,
    param_shapes,
    unflatten_params,
)

FORMAT = 2
WEIGHTS, SERVED, IDS = "weights.safetensors", "served.safetensors", "ids.json"
CARD = "student.json"
FILES = (WEIGHTS, SERVED, IDS, CARD)
# The same weights under RecBole's keys, which the caller may write; older weights' go with them.
RECBOLE_FILE = "recbole.pth"
USER_TABLE = "user_embedding.table"


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported student, read back.

    Attributes:
        config: the student's settings.
        facts: sizes, and the arrays that scoring reads.
        params: the parameters.
        items: finished item vectors.
        users: finished user vectors; None where they depend on the prefix.
        fold_in: the vectors that a user without a vector of the user's own gathers from the items;
            None where the class can't make such a user vector (`students.student.FoldsIn`).
        item_ids: ids of the items' rows.
        user_ids: ids of the users' rows; None where no user has a row.
        titles: the items' titles, "" where unknown; None where none was exported.
        card: the card as written.
    """

    config: StudentConfig
    facts: Facts
    params: Params
    items: Float[np.ndarray, "V E"]
    users: Float[np.ndarray, "U D"] | None
    fold_in: Float[np.ndarray, "V D"] | None
    item_ids: tuple[str, ...]
    user_ids: tuple[str, ...] | None
    titles: tuple[str, ...] | None
    card: Card


def export_student(
    folder: Path,
    params: Params,
    config: StudentConfig,
    facts: Facts,
    dataset: Dataset,
    record: Mapping[str, object] | None = None,
) -> None:
    """Writes a student; its card comes last: without one there is no student.

    Other files in the folder stay.

    Args:
        folder: output folder.
        params: the trained parameters.
        config: the student's settings.
        facts: the facts it was trained with.
        dataset: the data set whose ids name the rows of the tables.
        record: further fields of the card (seed, metrics, teachers), as JSON content.
    """
    weights = flatten_params(params)
    require_numbers(weights, "the student to be written")
    served = served_arrays(params, config, facts)
    scoring = facts.only(about(config.student).scoring_facts)
    titles = dataset.catalogue.texts.get("title", ())
    with_users = _has_users(weights) or USERS in served
    ids = {
        "item_ids": dataset.item_ids,
        "user_ids": dataset.user_ids if with_users else None,
        "titles": titles if any(titles) else None,
        "fields": {name: field.names for name, field in scoring.item_fields.items()},
    }
    card = _card(config, facts, dataset)
    card |= {"fields": _tabled_fields(weights, facts), "record": dict(record or {})}
    with writing_into(folder, last=CARD) as partial:
        _save_arrays(partial / WEIGHTS, weights)
        _save_arrays(partial / SERVED, {**served, **fact_arrays(scoring)})
        write_json(partial / IDS, ids)
        card["files"] = {name: file_digest(partial / name) for name in (WEIGHTS, SERVED, IDS)}
        write_json(partial / CARD, {**card, "digest": content_digest(card)})
        (folder / RECBOLE_FILE).unlink(missing_ok=True)


def _card(config: StudentConfig, facts: Facts, dataset: Dataset) -> dict[str, object]:
    """Which student of which data it is."""
    return {
        "format": FORMAT,
        "name": result_name(config),
        "label": label(config),
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "class": class_identity(config.student),
        "dataset": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "facts": {
            "users": facts.num_users,
            "items": facts.num_items,
            "window": facts.window,
            "second_items": None if facts.second is None else facts.second.num_items,
            "digest": facts.digest,
        },
    }


def read_exported(folder: Path) -> Exported:
    """Reads all that serving needs.

    Raises:
        UserError: a file is missing or damaged, of another format, or replaced meanwhile, or its
            student's class is not installed.
    """
    with unchanged(folder, FILES):
        card = read_complete_card(folder)
        config = _read_config(folder, card)
        weights, served = _load_arrays(folder / WEIGHTS), _load_arrays(folder / SERVED)
        ids = _read_json(folder / IDS)
    per_prefix = about(config.student).user_vector_per_prefix
    require_ids(folder / IDS, ids, card["facts"], users=_has_users(weights) or not per_prefix)
    require_served(folder / SERVED, served, card["facts"], ids["fields"], users=not per_prefix)
    facts = read_facts(card["facts"], served, ids["fields"])
    params = _params_of(weights, config, facts, folder / WEIGHTS)
    require_widths(folder / SERVED, served, params, config, facts)
    return Exported(
        config=config,
        facts=facts,
        params=params,
        items=served[ITEMS],
        users=served.get(USERS),
        fold_in=served.get(FOLD_IN),
        item_ids=tuple(ids["item_ids"]),
        user_ids=None if ids.get("user_ids") is None else tuple(ids["user_ids"]),
        titles=None if ids.get("titles") is None else tuple(ids["titles"]),
        card=card,
    )


def read_params(folder: Path, config: StudentConfig, facts: Facts, dataset: Dataset) -> Params:
    """The parameters, for the same student and the same ids: where training goes on.

    Raises:
        UserError: a file is missing, damaged or replaced meanwhile, or it is another student's or
            other data's.
    """
    with unchanged(folder, FILES):
        card = read_card(folder)
        for name in (WEIGHTS, IDS):
            _require_digest(folder, card, name)
        weights, ids = _load_arrays(folder / WEIGHTS), _read_json(folder / IDS)
    require_config(card, config, folder)
    has_users = _has_users(weights)
    require_ids(folder / IDS, ids, card["facts"], users=has_users)
    require_same_ids(folder / IDS, "item_ids", ids["item_ids"], dataset.item_ids)
    if has_users:
        require_same_ids(folder / IDS, "user_ids", ids["user_ids"], dataset.user_ids)
    for field, names in _tabled_fields(weights, facts).items():
        require_same_ids(folder / CARD, field, card["fields"].get(field), names)
    return _params_of(weights, config, facts, folder / WEIGHTS)


def _params_of(
    weights: dict[str, np.ndarray], config: StudentConfig, facts: Facts, path: Path
) -> Params:
    """A student's parameters out of a file's weights.

    Raises:
        UserError: weights are missing, surplus, of another shape or not finite.
    """
    like = abstract_params(config, facts)
    found = {name: array.shape for name, array in weights.items()}
    require_weights(found, param_shapes(like), str(path))
    require_numbers(weights, str(path))
    return unflatten_params(weights, like)


def require_config(card: Card, config: StudentConfig, folder: Path) -> None:
    """Refuses settings under which the same weights would mean another model.

    Args:
        card: the exported student's.
        config: the settings that its weights are to be read with.
        folder: the export's.

    Raises:
        UserError: naming the flag.
    """
    for option, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
        found = card["config"].get(option, value)
        # Shapes don't tell the number of heads, nor the steps over a graph.
        if weights_depend_on(config, option) and found != value:
            raise UserError(
                f"--{option}: found {value!r}, expected {found!r} as in {folder / CARD}"
            )


def read_card(folder: Path) -> Card:
    """The card of an exported student.

    Raises:
        UserError: it is missing, damaged or of another format.
    """
    path = folder / CARD
    card = _read_json(path)
    found = card.get("format", 1)
    if found != FORMAT:
        raise UserError(
            f"{path}: format: found {found!r}, expected {FORMAT}: export the student again"
        )
    content = {name: value for name, value in card.items() if name != "digest"}
    if card.get("digest") != content_digest(content):
        raise UserError(f"{path}: damaged: its content doesn't match its own SHA-256")
    require_card(path, card)
    return cast(Card, card)


def read_complete_card(folder: Path) -> Card:
    """The card of an exported student whose other files are those that the card names.

    Raises:
        UserError: as `read_card`, or another file is missing or damaged.
    """
    card = read_card(folder)
    for name in (WEIGHTS, SERVED, IDS):
        _require_digest(folder, card, name)
    return card


def _read_config(folder: Path, card: Card) -> StudentConfig:
    values = dict(card["config"])
    if values.get("student") not in STUDENT_NAMES:
        named = card["class"].get("class", "")
        raise UserError(
            f"{folder / CARD}: student: found {values.get('student')!r} ({named}), which is not "
            f"installed, expected one of {', '.join(STUDENT_NAMES)}"
        )
    config = read_options(folder / CARD, "config", values, StudentConfig)
    if not heads_fit(config):
        raise UserError(
            f"{folder / CARD}: config.num_heads: found {config.num_heads}, expected a divisor of "
            f"config.hidden_size, {config.hidden_size}"
        )
    return config


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # As bytes: the library's own file is readable by its owner alone.
    content = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    path.write_bytes(safetensors.numpy.save(content))


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    # AttributeError is what NumPy says of types that it lacks, of 8 bits and fewer.
    try:
        with open_regular(path):
            pass
        return safetensors.numpy.load_file(path)
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: can't be read ({first_line(error)})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except OSError as error:
        hint = student_below(path.parent) if path.name == CARD else ""
        raise UserError(f"{path}: missing, expected an exported student{hint}") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged: found no JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged: found no JSON object")
    return content


def student_below(folder: Path) -> str:
    """ ", such as …": an exported student in the folder of a run or of its students; else ""."""
    for cards in (f"*/{CARD}", f"*/*/{CARD}"):
        if found := max(folder.glob(cards), default=None):
            return f", such as {found.parent}"
    return ""


def _require_digest(folder: Path, card: Card, name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: missing, expected an exported student")
    if file_digest(path) != card["files"].get(name):
        raise UserError(f"{path}: damaged: its SHA-256 is not the one in {CARD}")


def knows_users(config: StudentConfig, facts: Facts) -> bool:
    """Whether such a student has vectors of its own users."""
    own = _has_users(param_shapes(abstract_params(config, facts)))
    return own or not about(config.student).user_vector_per_prefix


def _has_users(weights: Iterable[str]) -> bool:
    """Whether it has a row for each user that it was trained for."""
    return any(map(is_user_table, weights))


def is_user_table(parameter: str) -> bool:
    """Whether a parameter, by its dotted name, has a row for each user.

    >>> is_user_table("fm.user_embedding.table"), is_user_table("item_embedding.table")
    (True, False)
    """
    return f".{parameter}".endswith(f".{USER_TABLE}")


def _tabled_fields(weights: Iterable[str], facts: Facts) -> dict[str, list[str]]:
    """The words of the items' fields that have tables, in the order of their rows."""
    parts = {part for name in weights for part in name.split(".")}
    return {name: list(f.names) for name, f in facts.item_fields.items() if name in parts}
