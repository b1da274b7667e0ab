"""Recformer's json files: histories in three parts, the two numberings, the catalogue.

train.json val.json test.json   {user number: [item numbers]}
umap.json smap.json             {user: number}, {item: number}
meta_data.json                  {item: {title, brand, category}}
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources.clean import item_frame
from prmkd_jax.data.sources.config import PrepareConfig
from prmkd_jax.data.sources.files import expanded
from prmkd_jax.data.sources.place import Place, short
from prmkd_jax.data.sources.source import (
    History,
    Source,
    history_batch,
    id_list,
    json_object,
    objects_of,
    renamed,
)
from prmkd_jax.data.sources.values import Row

_PARTS = ("train.json", "val.json", "test.json")
_OTHERS = ("umap.json", "smap.json", "meta_data.json")


def open_recformer(config: PrepareConfig) -> Source:
    """Reads the folder `--raw_dir`.

    Raises:
        UserError: a file is missing or of another form, or a number has no name.
    """
    folder = expanded(config.raw_dir)
    users, items = (_numbering(folder / name) for name in ("umap.json", "smap.json"))
    parts = [json_object(folder / name) for name in _PARTS]
    histories = []
    for user in dict.fromkeys(user for part in parts for user in part):
        lists = [
            id_list(folder / name, user, part.get(user, []))
            for name, part in zip(_PARTS, parts, strict=True)
        ]
        histories.append(
            History(
                user=renamed(user, users, folder / "umap.json", str(folder / _PARTS[0])),
                items=[
                    renamed(item, items, folder / "smap.json", str(folder / name))
                    for name, listed in zip(_PARTS, lists, strict=True)
                    for item in listed
                ],
                parts=[part for part, listed in enumerate(lists) for _ in listed],
            )
        )
    return Source(
        interactions=iter([history_batch(histories, folder / _PARTS[0])]),
        items=iter([_items(folder / "meta_data.json")]),
        timed=False,
        ordered=True,
        files=tuple(folder / name for name in (*_PARTS, *_OTHERS)),
        notes=("order: the lists, oldest first; train, then val, then test",),
    )


def _numbering(path: Path) -> dict[str, str]:
    """{name: number} as number → name."""
    names: dict[str, str] = {}
    for name, number in json_object(path).items():
        if isinstance(number, bool) or not isinstance(number, int) or str(number) in names:
            raise UserError(
                f"{path}, field {short(name)}: found {short(str(number))}, expected a whole number "
                "that stands nowhere else"
            )
        names[str(number)] = name
    return names


def _items(path: Path) -> pl.DataFrame:
    return item_frame(_rows(path), Place(str(path)))


def _rows(path: Path) -> Iterator[Row]:
    for item, fields in objects_of(path):
        yield {
            "item_id": item,
            "title": fields.get("title"),
            "brand": fields.get("brand"),
            "categories": fields.get("category"),
        }
