"""RecBole's atomic files: tab-separated, each column's type after its name.

Two layouts are read. `<name>.inter` (with `<name>.item`) has a row an interaction; it may be cut
into `.train.inter`, `.valid.inter` and `.test.inter`, which is a given split. UniSRec's benchmark
files have a row an instance instead, its history as a list of indices in `item_id_list`, with
`.user2index`, `.item2index` and `.text` next to them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import is_there
from prmkd_jax.data.sources.clean import item_frame
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.files import MissingSource, expanded, whole_text
from prmkd_jax.data.sources.log import canonical
from prmkd_jax.data.sources.place import Place, short, shown
from prmkd_jax.data.sources.rows import FrameBatch, columns_of, dicts, frames
from prmkd_jax.data.sources.source import History, Source, history_batch, index_file, renamed
from prmkd_jax.data.sources.tables import (
    ITEM_FLAGS,
    clock_notes,
    interaction_columns,
    named_columns,
    renamed_row,
)
from prmkd_jax.data.sources.times import Clock
from prmkd_jax.data.sources.values import Value

_TYPES = ("token", "token_seq", "float", "float_seq")
_PARTS = ("train", "valid", "test")
_LIST = "item_id_list"


class _Instance(NamedTuple):
    """A row of a benchmark file."""

    prefix: Sequence[str]
    target: str
    part: int


def open_recbole(config: PrepareConfig, clock: Clock) -> Source:
    """Reads the folder `--raw_dir`.

    Raises:
        UserError: a file is missing, or a header or a row is of another form.
    """
    folder = expanded(config.raw_dir)
    paths = _interaction_files(folder)
    name = _name(paths[0])
    items = _items(config, folder, name)
    headers = {path: typed_columns(path) for path in paths}
    beside = (folder / f"{name}.{kind}" for kind in ("item", "text", "user2index", "item2index"))
    files = (*paths, *(path for path in beside if is_there(path)))
    if _LIST in headers[paths[0]]:
        histories = _benchmark(folder, name, paths, headers)
        notes = ("order: the lists of the benchmark files, oldest first",)
        batches = iter([history_batch(histories, paths[0])])
        return Source(batches, items, timed=False, ordered=True, files=files, notes=notes)
    several = len(paths) > 1
    columns = interaction_columns(config, paths[0], list(headers[paths[0]]), several)
    return Source(
        interactions=_rows(paths, headers, columns, clock),
        items=items,
        timed="timestamp" in columns,
        ordered=not several,
        files=files,
        notes=clock_notes(columns, len(paths)),
    )


def typed_columns(path: Path) -> dict[str, str]:
    """A file's columns, name → name with its type, as the header has it.

    Raises:
        UserError: a column has none of the types, or two have one name.
    """
    columns: dict[str, str] = {}
    for column in columns_of(path, "tsv"):
        name, _, kind = column.partition(":")
        if kind not in _TYPES:
            raise UserError(
                f"{path}, header: found {short(column)}, expected name:type with a type out of "
                f"{', '.join(_TYPES)}"
            )
        if name in columns:
            raise UserError(
                f"{path}, header: found {short(columns[name])} and {short(column)}, expected each "
                "name once"
            )
        columns[name] = column
    return columns


def _interaction_files(folder: Path) -> list[Path]:
    whole = sorted(path for path in folder.glob("*.inter") if path.is_file())
    parts = {
        part: path for part in _PARTS for path in whole if path.name.endswith(f".{part}.inter")
    }
    one = [path for path in whole if path not in parts.values()]
    names = {_name(path) for path in whole}
    if len(names) != 1 or len(one) > 1 or (not one and len(parts) < 3):
        found = shown([path.name for path in whole or sorted(folder.iterdir())])
        kind = UserError if len(names) > 1 or one else MissingSource
        raise kind(
            f"--raw_dir={folder}: found {found}, expected one NAME.inter, or "
            "NAME.train.inter, NAME.valid.inter and NAME.test.inter"
        )
    return one or [parts[part] for part in _PARTS]


def _name(path: Path) -> str:
    """The data set's name, which may have dots: without `.inter` and the part before it."""
    name = path.name.removesuffix(".inter")
    return next(
        (name.removesuffix(f".{part}") for part in _PARTS if name.endswith(f".{part}")), name
    )


def _rows(
    paths: Sequence[Path],
    headers: Mapping[Path, Mapping[str, str]],
    columns: Mapping[str, str],
    clock: Clock,
) -> Iterator[FrameBatch]:
    """Rows that are interactions; of three files, each row's part is its file."""
    for part, path in enumerate(paths):
        missing = [name for name in columns.values() if name not in headers[path]]
        if missing:
            raise UserError(f"{path}: found no column {missing[0]}, expected it as in {paths[0]}")
        typed = {name: headers[path][column] for name, column in columns.items()}
        batches = frames(path, list(dict.fromkeys(typed.values())), "tsv")
        for frame, place in canonical(batches, typed, clock):
            if len(paths) > 1:
                frame = frame.with_columns(pl.lit(part, dtype=pl.Int8).alias("split"))
            yield FrameBatch(frame, place)


def _benchmark(
    folder: Path, name: str, paths: Sequence[Path], headers: Mapping[Path, Mapping[str, str]]
) -> list[History]:
    """UniSRec's files: every prefix of a history in a row of its own."""
    instances: dict[str, list[_Instance]] = {}
    for part, path in enumerate(paths):
        for wanted in ("user_id", _LIST, "item_id"):
            if wanted not in headers[path]:
                raise UserError(f"{path}, header: found no {wanted}, expected it")
        columns = [headers[path][wanted] for wanted in ("user_id", _LIST, "item_id")]
        for frame, place in frames(path, columns, "tsv"):
            for index, (user, listed, target) in enumerate(frame.iter_rows()):
                if user is None or target is None:
                    raise UserError(
                        f"{place.of('user_id').row(index)}: found an empty cell, expected a user "
                        "and an item"
                    )
                row = _Instance((listed or "").split(), target, part)
                instances.setdefault(user, []).append(row)
    longest = max((len(row.prefix) for rows in instances.values() for row in rows), default=0)
    users, items = (
        index_file(path) if is_there(path := folder / f"{name}.{kind}2index") else None
        for kind in ("user", "item")
    )
    histories = []
    for user, rows in instances.items():
        found, parts = _joined(rows, longest, paths[0], user)
        where = str(paths[0])
        if users is not None:
            user = renamed(user, users, folder / f"{name}.user2index", where)
        if items is not None:
            path = folder / f"{name}.item2index"
            found = [renamed(item, items, path, where) for item in found]
        histories.append(History(user, found, parts))
    return histories


def _joined(
    rows: Sequence[_Instance], longest: int, path: Path, user: str
) -> tuple[list[str], list[int]]:
    """A user's history out of its instances, and the part of every item.

    Lists hold at most the last `longest` items. Those of fewer are the whole prefix; of the
    others the files' order tells which comes first, from the longest on or from the shortest.
    """
    for backwards in (True, False):
        ordered = [
            (row.part, len(row.prefix), -index if backwards else index, row)
            for index, row in enumerate(rows)
        ]
        history: list[str] = []
        parts: list[int] = []
        for part, _, _, (prefix, target, _) in sorted(ordered, key=lambda row: row[:3]):
            if history == prefix[: len(history)] and len(prefix) >= len(history):
                parts += [0] * (len(prefix) - len(history))
                history += prefix[len(history) :]
            elif len(prefix) < longest or history[-longest:] != prefix:
                break
            history.append(target)
            parts.append(part)
        else:
            return history, parts
    raise UserError(
        f"{path}: found instances of user {user!r} that do not continue each other, expected "
        "every prefix of one history"
    )


def _items(config: PrepareConfig, folder: Path, name: str) -> Iterator[pl.DataFrame] | None:
    if is_there(folder / f"{name}.item"):
        return _item_file(config, folder / f"{name}.item")
    if is_there(folder / f"{name}.text"):
        return _text_file(folder / f"{name}.text")
    return None


def _item_file(config: PrepareConfig, path: Path) -> Iterator[pl.DataFrame]:
    header = typed_columns(path)
    columns = named_columns(config, path, list(header), ITEM_FLAGS)
    typed = {name: header[column] for name, column in columns.items()}
    for rows, place in dicts(path, list(dict.fromkeys(typed.values())), "tsv"):
        named = [renamed_row(row, typed, path.parent) for row in rows]
        if typed.get("categories", "").endswith(":token_seq"):
            named = [{**row, "categories": _sequence(row["categories"])} for row in named]
        yield item_frame(named, place.of("item_id"))


def _sequence(value: Value) -> Value:
    """A token_seq's tokens, which blanks part, unless commas or quotes do."""
    if isinstance(value, str) and not any(sign in value for sign in "',\""):
        return [*value.split()]
    return value


def _text_file(path: Path) -> Iterator[pl.DataFrame]:
    """UniSRec's `.text`: two columns without quotes, so that a `"` is an inch."""
    header, *lines = whole_text(path).split("\n")
    if [name.partition(":")[0] for name in header.strip().split("\t")] != ["item_id", "text"]:
        raise UserError(f"{path}, header: found {header[:60]!r}, expected item_id and text")
    rows = []
    for number, line in enumerate(lines, start=2):
        item, tab, title = line.rstrip("\r").partition("\t")
        if item and not tab:
            raise UserError(f"{path}, line {number}: found {line[:60]!r}, expected a tab")
        rows.append({"item_id": item, "title": title})
    yield item_frame(rows, Place(str(path), 2, "line"))
