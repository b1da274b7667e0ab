"""What every reader hands over, and how histories that are lists become rows."""

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import RepeatedField, each_once
from prmkd_jax.data.sources.clean import require_characters
from prmkd_jax.data.sources.files import MissingSource, whole_text
from prmkd_jax.data.sources.place import Place, short, shown
from prmkd_jax.data.sources.rows import FrameBatch
from prmkd_jax.data.sources.values import Value, fault


@dataclasses.dataclass(frozen=True)
class Source:
    """Interactions and catalogue of a foreign format, read while they are iterated.

    Attributes:
        interactions: frames as `log.canonical` gives them.
        items: frames as `clean.item_frame` gives them; None without a catalogue.
        timed: whether `time` is a time, or a rank in the history.
        ordered: whether the order of the rows means something, as in one file.
        files: all files that are read.
        notes: lines for the user on how the files were read.
    """

    interactions: Iterator[FrameBatch]
    items: Iterator[pl.DataFrame] | None
    timed: bool
    ordered: bool
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class History:
    """One user's items, oldest first, and the part of the given split that each is in."""

    user: str
    items: Sequence[str]
    parts: Sequence[int] | None = None


def history_batch(histories: Sequence[History], file: Path) -> FrameBatch:
    """Histories as one frame of rows, with `time` the rank in the history.

    Raises:
        UserError: a user's or an item's id is blank.
    """
    columns = {
        "user_id": [one.user for one in histories for _ in one.items],
        "item_id": [item for one in histories for item in one.items],
        "time": [rank for one in histories for rank in range(len(one.items))],
    }
    schema: dict[str, type[pl.DataType]] = {
        "user_id": pl.String,
        "item_id": pl.String,
        "time": pl.Int64,
    }
    if histories and histories[0].parts is not None:
        columns["split"] = [part for one in histories for part in one.parts or ()]
        schema["split"] = pl.Int8
    frame = pl.DataFrame(columns, schema=schema)
    for name in ("user_id", "item_id"):
        blank = frame[name].filter(frame[name].str.strip_chars() == "")
        if len(blank):
            raise UserError(
                f"{file}: found {name} {short(blank[0])}, expected an id that is not blank"
            )
    return FrameBatch(frame, Place(str(file)))


def the_file(folder: Path, pattern: str, what: str) -> Path:
    """The one file of a folder that a pattern names.

    Raises:
        MissingSource: there is none.
        UserError: there are several.
    """
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(found) != 1:
        names = shown([path.name for path in found or sorted(folder.iterdir())])
        kind = UserError if found else MissingSource
        raise kind(f"--raw_dir={folder}: found {names}, expected one file {pattern} ({what})")
    return found[0]


def _fields(path: Path, pairs: list[tuple[str, Value]]) -> dict[str, object]:
    for name, _ in pairs:
        require_characters(name, f"{path}, a field")
    return each_once(pairs)


def json_object(path: Path) -> Mapping[str, Value]:
    """Reads a file that is one JSON object.

    Raises:
        UserError: it is none.
    """
    try:
        value = json.loads(whole_text(path), object_pairs_hook=functools.partial(_fields, path))
    except RepeatedField as repeated:
        raise UserError(
            f"{path}: found the field {short(repeated.name)} twice, expected each once"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}, line {error.lineno}: found no JSON ({error.msg}), expected one object"
        ) from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(
            f"{path}: found no JSON ({first_line(error)}), expected one object"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: found JSON nested too deep, expected one object") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: found {type(value).__name__}, expected a JSON object")
    for name, each in value.items():
        if found := fault(each):
            raise UserError(f"{path}, field {short(name)}: found {found}")
    return value


def objects_of(path: Path) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """The fields of a JSON object whose values are objects, such as a catalogue by item.

    Raises:
        UserError: it is none, or a value is no object.
    """
    for name, fields in json_object(path).items():
        if not isinstance(fields, dict):
            raise UserError(
                f"{path}, field {short(name)}: found {short(str(fields))}, expected an object"
            )
        yield name, fields


def id_list(path: Path, key: str, value: Value) -> list[str]:
    """A JSON list of ids as text.

    Raises:
        UserError: it is no list of whole numbers and texts.
    """
    if not isinstance(value, list):
        raise UserError(
            f"{path}, field {short(key)}: found {short(value)}, expected a list of items"
        )
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int | str) or not str(item).strip():
            raise UserError(
                f"{path}, field {short(key)}: found {short(item)}, expected an item's id"
            )
        require_characters(str(item), f"{path}, field {short(key)}")
    return [str(item) for item in value]


def index_file(path: Path) -> dict[str, str]:
    """A file of `name <tab> index` lines, as index → name.

    Raises:
        UserError: a line is of another form, or a name or an index comes twice.
    """
    names: dict[str, str] = {}
    seen: set[str] = set()
    for number, line in enumerate(whole_text(path).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        name, _, index = line.partition("\t")
        # Of two indices with one name, two users would be one in silence.
        if not name.strip() or not index or "\t" in index or index in names or name in seen:
            raise UserError(
                f"{path}, line {number}: found {short(line)}, expected a name, a tab and an index, "
                "both of which stand nowhere else"
            )
        names[index] = name
        seen.add(name)
    return names


def renamed(value: str, names: Mapping[str, str], path: Path, where: str) -> str:
    """The name of an index.

    Raises:
        UserError: the index file lacks it.
    """
    if value not in names:
        raise UserError(f"{where}: found index {short(value)}, expected one of {path}")
    return names[value]
