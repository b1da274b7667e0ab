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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import Float, Int32
from safetensors import SafetensorError

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import (
    content_digest,
    file_digest,
    open_regular,
    read_json,
    write_json,
    writing_into,
)
from prmkd_jax.common.weights import require_numbers, require_weights
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.packing import PackedRows
from prmkd_jax.serve.card import Card, CardFacts
from prmkd_jax.serve.contents import (
    read_config,
    require_card,
    require_columns,
    require_ids,
    require_places,
    require_rows,
    require_same_ids,
)
from prmkd_jax.students.config import STUDENT_NAMES, StudentConfig
from prmkd_jax.students.facts import ITEM_FIELDS, Facts, Field, SecondDomain
from prmkd_jax.students.registry import (
    about,
    class_identity,
    heads_fit,
    label,
    result_name,
    weights_depend_on,
)
from prmkd_jax.students.student import (
    FoldsIn,
    Params,
    abstract_params,
    flatten_params,
    param_shapes,
    structure,
    unflatten_params,
)

FORMAT = 2
WEIGHTS, SERVED, IDS = "weights.safetensors", "served.safetensors", "ids.json"
CARD = "student.json"
FILES = (WEIGHTS, SERVED, IDS, CARD)
# The same weights under RecBole's keys, which the caller may write; older weights' go with them.
RECBOLE_FILE = "recbole.pth"
USER_TABLE = "user_embedding.table"

# Names of the arrays in `SERVED`.
_ITEMS, _USERS, _FOLD_IN, _EDGES, _FIELD = "items", "users", "fold_in", "edges", "field."
# Users whose vectors are made at once.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported student, read back.

    Attributes:
        config: which student.
        facts: sizes, and the arrays that scoring reads.
        params: the parameters.
        items: finished item vectors.
        users: finished user vectors; None where they depend on the prefix.
        fold_in: what a user without a vector gathers from each item; None where the class
            can't make such a vector (`students.student.FoldsIn`).
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
        config: which student.
        facts: the facts it was trained with.
        dataset: its data set, whose ids name the rows of the tables.
        record: what else the card should tell (seed, metrics, teachers), as JSON content.
    """
    weights = flatten_params(params)
    served = _served_arrays(params, config, facts)
    scoring = facts.only(about(config.student).scoring_facts)
    titles = dataset.catalogue.texts.get("title", ())
    with_users = _has_users(weights) or _USERS in served
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
        _save_arrays(partial / SERVED, {**served, **_fact_arrays(scoring)})
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
        UserError: a file is missing or damaged, of another format, or its student's class is
            not installed.
    """
    card = read_card(folder)
    for name in (WEIGHTS, SERVED, IDS):
        _require_digest(folder, card, name)
    config = _read_config(folder, card)
    weights, served = _load_arrays(folder / WEIGHTS), _load_arrays(folder / SERVED)
    ids = _read_json(folder / IDS)
    require_ids(folder / IDS, ids, card["facts"])
    _require_served(folder / SERVED, served, card["facts"], ids["fields"])
    facts = _read_facts(card["facts"], served, ids["fields"])
    like = abstract_params(config, facts)
    require_weights(_shapes(weights), param_shapes(like), str(folder / WEIGHTS))
    require_numbers(weights, str(folder / WEIGHTS))
    _require_widths(folder / SERVED, served, like, config, facts)
    return Exported(
        config=config,
        facts=facts,
        params=unflatten_params(weights, like),
        items=served[_ITEMS],
        users=served.get(_USERS),
        fold_in=served.get(_FOLD_IN),
        item_ids=tuple(ids["item_ids"]),
        user_ids=None if ids.get("user_ids") is None else tuple(ids["user_ids"]),
        titles=None if ids.get("titles") is None else tuple(ids["titles"]),
        card=card,
    )


def read_params(folder: Path, config: StudentConfig, facts: Facts, dataset: Dataset) -> Params:
    """The parameters, for the same student and the same ids: where training goes on.

    Raises:
        UserError: a file is missing or damaged, or it is another student's or other data's.
    """
    card = read_card(folder)
    for name in (WEIGHTS, IDS):
        _require_digest(folder, card, name)
    weights, ids = _load_arrays(folder / WEIGHTS), _read_json(folder / IDS)
    require_config(card, config, folder)
    require_same_ids(folder / IDS, "item_ids", ids["item_ids"], dataset.item_ids)
    if _has_users(weights):
        require_same_ids(folder / IDS, "user_ids", ids["user_ids"], dataset.user_ids)
    for field, names in _tabled_fields(weights, facts).items():
        require_same_ids(folder / CARD, field, card["fields"].get(field), names)
    like = abstract_params(config, facts)
    require_weights(_shapes(weights), param_shapes(like), str(folder / WEIGHTS))
    require_numbers(weights, str(folder / WEIGHTS))
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


def _served_arrays(params: Params, config: StudentConfig, facts: Facts) -> dict[str, np.ndarray]:
    """The finished tables."""
    student = nnx.merge(structure(config, facts), nnx.State(params))
    served = {_ITEMS: np.asarray(student.items())}
    if not about(config.student).user_vector_per_prefix:
        blocks = []
        for first in range(0, facts.num_users, _BLOCK):
            users = np.arange(first, min(first + _BLOCK, facts.num_users), dtype=np.int32)
            blocks.append(np.asarray(student.queries(_rows_of_users(users))))
        served[_USERS] = np.concatenate(blocks)
        if isinstance(student, FoldsIn):
            served[_FOLD_IN] = np.asarray(student.fold_in_items())
    return served


def _rows_of_users(users: Int32[np.ndarray, " n"]) -> PackedRows:
    """Rows for a student whose queries depend on the user alone."""
    users = users[:, None]
    zeros, ones = np.zeros_like(users), np.ones_like(users)
    return PackedRows(zeros, ones, zeros, users, zeros)


def _fact_arrays(facts: Facts) -> dict[str, np.ndarray]:
    fields = {f"{_FIELD}{name}": field.words for name, field in facts.item_fields.items()}
    return {_EDGES: facts.edges, **fields}


def _read_facts(
    sizes: CardFacts, arrays: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]
) -> Facts:
    second, window = None, sizes["window"]
    if sizes["second_items"] is not None:
        empty = np.zeros((0, window + 1), np.int32)
        second = SecondDomain(sizes["second_items"], PackedRows(*[empty] * 5))
    # In the order of training: DeepFM's first layer reads the fields one after another.
    fields = {
        name: Field(tuple(names[name]), arrays[f"{_FIELD}{name}"])
        for name in ITEM_FIELDS
        if name in names
    }
    return Facts(sizes["users"], sizes["items"], window, arrays[_EDGES], fields, second)


def _require_served(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    sizes: CardFacts,
    names: Mapping[str, Sequence[str]],
) -> None:
    """Refuses tables that don't fit the sizes, and row numbers that point past them."""
    users, items = sizes["users"], sizes["items"]
    require_rows(path, arrays, _ITEMS, items)
    require_rows(path, arrays, _USERS, users, optional=True)
    require_rows(path, arrays, _FOLD_IN, items, optional=True)
    require_places(path, arrays, _EDGES, (2, None), np.array([[0, users], [0, items]]))
    for name in ITEM_FIELDS:
        if name in names:
            bounds = (-1, len(names[name]))
            require_places(path, arrays, f"{_FIELD}{name}", (items, None), bounds)


def _require_widths(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    like: Params,
    config: StudentConfig,
    facts: Facts,
) -> None:
    """Refuses finished tables of other widths than the student's own; nothing is computed."""

    def made(params: Params) -> dict[str, jax.Array]:
        student = nnx.merge(structure(config, facts), nnx.State(params))
        tables = {_ITEMS: student.items()}
        if _USERS in arrays:
            tables[_USERS] = student.queries(_rows_of_users(np.zeros(1, np.int32)))
        if _FOLD_IN in arrays and isinstance(student, FoldsIn):
            tables[_FOLD_IN] = student.fold_in_items()
        return tables

    for name, table in jax.eval_shape(made, like).items():
        require_columns(path, arrays, name, table.shape[1])


def _read_config(folder: Path, card: Card) -> StudentConfig:
    values = dict(card["config"])
    if values.get("student") not in STUDENT_NAMES:
        named = card["class"].get("class", "")
        raise UserError(
            f"{folder / CARD}: student: found {values.get('student')!r} ({named}), which is not "
            f"installed, expected one of {', '.join(STUDENT_NAMES)}"
        )
    config = read_config(folder / CARD, values)
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
        raise UserError(f"{path}: missing, expected an exported student") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged: found no JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged: found no JSON object")
    return content


def _require_digest(folder: Path, card: Card, name: str) -> None:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: missing, expected an exported student")
    if file_digest(path) != card["files"].get(name):
        raise UserError(f"{path}: damaged: its SHA-256 is not the one in {CARD}")


def _shapes(weights: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in weights.items()}


def knows_users(config: StudentConfig, facts: Facts) -> bool:
    """Whether such a student has vectors of its own users."""
    own = _has_users(param_shapes(abstract_params(config, facts)))
    return own or not about(config.student).user_vector_per_prefix


def _has_users(weights: Iterable[str]) -> bool:
    """Whether it has a row for each user that it was trained for."""
    return any(f".{name}".endswith(f".{USER_TABLE}") for name in weights)


def _tabled_fields(weights: Iterable[str], facts: Facts) -> dict[str, list[str]]:
    """The words of the items' fields that have tables, in the order of their rows."""
    parts = {part for name in weights for part in name.split(".")}
    return {name: list(f.names) for name, f in facts.item_fields.items() if name in parts}
