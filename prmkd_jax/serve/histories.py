"""Histories from files of any size, one after another: JSON lines, parquet, a data set."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from prmkd_jax.common.errors import UserError, first_line, shortened
from prmkd_jax.common.reading import RepeatedField, parse_json
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.parquet import is_text, require_once

SUFFIXES = (".jsonl", ".parquet")
# Rows of a parquet file that are held at once.
_ROWS = 8192


class Asked(NamedTuple):
    """Who is to be answered.

    Attributes:
        user: the user's id; None where it isn't known.
        history: item ids, oldest first.
    """

    user: str | None
    history: list[str]


def require_suffix(path: Path, flag: str) -> None:
    """Refuses a file of another format.

    Raises:
        UserError: naming the flag.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{flag}: found {str(path)!r}, expected a name in {' or '.join(SUFFIXES)}")


def read_histories(path: Path, first: int = 0) -> Iterator[Asked]:
    """The histories of a file, in its order; memory doesn't grow with the file.

    Args:
        path: JSON lines, `{"user_id": "u1", "history": ["i3", "i9"]}`, or parquet with columns of
            these names; `user_id` may be missing or null.
        first: how many to pass over; they aren't checked.

    Raises:
        UserError: naming the file and the line or row, what was found and what was expected.
    """
    require_suffix(path, "--input")
    if not path.is_file():
        raise UserError(f"--input: found no file {path}, expected histories")
    read = _read_lines if path.suffix == ".jsonl" else _read_parquet
    return read(path, first)


class Targets(NamedTuple):
    """Instances by their ids.

    Attributes:
        users: each instance's user.
        histories: the items that the user had before the target, oldest first.
        targets: the target alone in a list.
    """

    users: list[str]
    histories: list[list[str]]
    targets: list[list[str]]


def instance_targets(dataset: Dataset, instances: Int64[np.ndarray, " instances"]) -> Targets:
    """What a recommender is asked and what it should say, for some instances of a data set."""
    interactions, ids = dataset.interactions, dataset.item_ids
    users = interactions.users[instances]
    read = [
        [ids[item] for item in interactions.items[interactions.indptr[user] : end]]
        for user, end in zip(users, instances, strict=True)
    ]
    targets = [[ids[item]] for item in interactions.items[instances]]
    return Targets([dataset.user_ids[user] for user in users], read, targets)


def dataset_histories(dataset: Dataset, first: int = 0) -> Iterator[Asked]:
    """The complete history of every user of a data set."""
    interactions, ids = dataset.interactions, dataset.item_ids
    for user in range(first, interactions.num_users):
        part = slice(interactions.indptr[user], interactions.indptr[user + 1])
        yield Asked(dataset.user_ids[user], [ids[item] for item in interactions.items[part]])


def _read_lines(path: Path, first: int) -> Iterator[Asked]:
    with path.open("rb") as stream:
        filled = ((number, line) for number, line in enumerate(stream, 1) if line.strip())
        for number, line in itertools.islice(filled, first, None):
            where = f"{path}, line {number}"
            try:
                content = parse_json(line)
            except RepeatedField as error:
                raise UserError(
                    f"{where}: found the field {_short(error.name)} twice, expected each once"
                ) from None
            except ValueError as error:
                raise UserError(
                    f"{where}: found no JSON ({first_line(error)}), expected an object"
                ) from None
            if not isinstance(content, dict):
                raise UserError(f"{where}: found {_short(content)}, expected an object")
            yield _checked(where, content.get("user_id"), content.get("history"))


def _read_parquet(path: Path, first: int) -> Iterator[Asked]:
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow)
            row = 0
            for batch in file.iter_batches(_ROWS, columns=columns):
                skipped = min(len(batch), max(0, first - row))
                left = batch.slice(skipped)
                row += skipped
                histories = left["history"].to_pylist()
                users = left["user_id"].to_pylist() if "user_id" in columns else [None] * len(left)
                for user, history in zip(users, histories, strict=True):
                    yield _checked(f"{path}, row {row}", user, history)
                    row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: found no readable parquet file ({first_line(error)})") from None


def _columns(path: Path, schema: pa.Schema) -> list[str]:
    columns = [name for name in ("user_id", "history") if name in schema.names]
    if "history" not in columns:
        raise UserError(f"{path}: found no column history, expected lists of item ids")
    require_once(path, schema, columns)
    wanted = {"user_id": "text", "history": "lists of text"}
    for name in columns:
        kind = schema.field(name).type
        # Before they are read: some times are none that Python has a value for.
        if not (pa.types.is_null(kind) or (is_text(kind) if name == "user_id" else _is_list(kind))):
            raise UserError(f"{path}, {name}: found type {kind}, expected {wanted[name]}")
    return columns


def _is_list(kind: pa.DataType) -> bool:
    """Whether a type holds lists of text, or lists without any element."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(holds(kind) for holds in lists):
        return False
    return is_text(kind.value_type) or pa.types.is_null(kind.value_type)


def _checked(where: str, user: object, history: object) -> Asked:
    if user is not None and not isinstance(user, str):
        raise UserError(f"{where}, user_id: found {_short(user)}, expected a string or null")
    if not isinstance(history, list) or not all(isinstance(item, str) for item in history):
        found = "nothing" if history is None else _short(history)
        raise UserError(f"{where}, history: found {found}, expected a list of item ids (strings)")
    if user is not None and any("\ud800" <= letter <= "\udfff" for letter in user):
        # It comes back in the answer, which is written as UTF-8.
        raise UserError(f"{where}, user_id: found {_short(user)}, expected text of UTF-8")
    return Asked(user, history)


def _short(value: object) -> str:
    return shortened(repr(value))
