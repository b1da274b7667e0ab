"""Where the page finds an image of an item: addresses, and files that the service hands out."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import read_json
from prmkd_jax.data.parquet import is_text, require_once

# What a browser shows as an image and nothing else; SVG may hold a script.
TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
}


class Images(NamedTuple):
    """Images by item id.

    Attributes:
        addresses: http or https addresses, which the visitor's browser asks for.
        files: files of this machine.
    """

    addresses: Mapping[str, str]
    files: Mapping[str, Path]

    def address(self, item: str) -> str | None:
        """What an `<img>` of the page gets; None where no image is known."""
        if item in self.files:
            return f"images?item={quote(item, safe='')}"
        return self.addresses.get(item)


def read_images(path: str) -> Images:
    """Reads `--images`; entries of other kinds than `TYPES` and http addresses are left out.

    Args:
        path: a JSON object of item id → address or path, or a data set's `items.parquet`; paths
            are relative to its folder. "" for no images.

    Raises:
        UserError: the file can't be read as either.
    """
    if not path:
        return Images({}, {})
    file = Path(path)
    try:
        named = _from_parquet(file) if file.suffix == ".parquet" else _from_json(file)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--images: {file}: found {first_line(error)}, expected items.parquet with image_path "
            "or a JSON object of item id and address or path"
        ) from error
    web = {item: name for item, name in named.items() if name.startswith(("https://", "http://"))}
    files = {
        item: file.parent / name
        for item, name in named.items()
        if item not in web and Path(name).suffix.lower() in TYPES
    }
    return Images(web, files)


def _from_parquet(file: Path) -> dict[str, str]:
    names = ["item_id", "image_path"]
    schema = pq.read_schema(file)
    require_once(file, schema, names)
    for name in names:
        # Before they are read: some times are none that Python has a value for.
        kind = schema.field(name).type
        if not (is_text(kind) or pa.types.is_null(kind)):
            raise ValueError(f"{name} of type {kind}")
    columns = pq.read_table(file, columns=names).to_pydict()
    pairs = zip(columns["item_id"], columns["image_path"], strict=True)
    return {item: name for item, name in pairs if item and name}


def _from_json(file: Path) -> dict[str, str]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return {item: name for item, name in content.items() if isinstance(name, str) and name}
