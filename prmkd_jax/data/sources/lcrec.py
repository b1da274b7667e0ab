"""LC-Rec's json: `<name>.inter.json` {user: [items]} and `<name>.item.json` {item: fields}."""

from pathlib import Path

import polars as pl

from prmkd_jax.common.reading import is_there
from prmkd_jax.data.sources.clean import item_frame
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.files import expanded
from prmkd_jax.data.sources.place import Place
from prmkd_jax.data.sources.source import (
    History,
    Source,
    history_batch,
    id_list,
    index_file,
    json_object,
    objects_of,
    renamed,
    the_file,
)

_KINDS = ("user", "item")
_FIELDS = ("title", "brand", "categories", "description")


def open_lcrec(config: PrepareConfig) -> Source:
    """Reads the folder `--raw_dir`; ids become names again where index files are there.

    Raises:
        UserError: a file is missing or of another form.
    """
    folder = expanded(config.raw_dir)
    inter = the_file(folder, "*.inter.json", "histories")
    prefix = inter.name.removesuffix(".inter.json")
    users, items = (_names(folder / f"{prefix}.{kind}2id") for kind in _KINDS)
    histories = [
        History(
            user=_name(user, users, inter),
            items=[_name(item, items, inter) for item in id_list(inter, user, listed)],
        )
        for user, listed in json_object(inter).items()
    ]
    catalogue = folder / f"{prefix}.item.json"
    return Source(
        interactions=iter([history_batch(histories, inter)]),
        items=iter([_items(catalogue, items)]) if is_there(catalogue) else None,
        timed=False,
        ordered=True,
        files=tuple(
            path
            for path in (inter, catalogue, *(folder / f"{prefix}.{kind}2id" for kind in _KINDS))
            if is_there(path)
        ),
        notes=("order: the lists, oldest first",),
    )


def _items(path: Path, names: tuple[Path, dict[str, str]] | None) -> pl.DataFrame:
    rows = [
        {"item_id": _name(item, names, path), **{name: fields.get(name) for name in _FIELDS}}
        for item, fields in objects_of(path)
    ]
    return item_frame(rows, Place(str(path)))


def _names(path: Path) -> tuple[Path, dict[str, str]] | None:
    return (path, index_file(path)) if is_there(path) else None


def _name(index: str, names: tuple[Path, dict[str, str]] | None, where: Path) -> str:
    return renamed(index, names[1], names[0], str(where)) if names else index
