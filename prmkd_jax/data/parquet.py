"""What the columns of somebody's parquet file are, before their values are read."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from prmkd_jax.common.errors import UserError


def require_once(path: Path, schema: pa.Schema, names: Iterable[str]) -> None:
    """Refuses a column that a file has twice: nobody could say which of them is meant.

    Args:
        path: the file, for errors.
        schema: its columns.
        names: those that are read; others may be there twice.

    Raises:
        UserError: naming the column.
    """
    for name in names:
        count = schema.names.count(name)
        if count > 1:
            raise UserError(f"{path}: found {count} columns {name}, expected 1")


def is_text(kind: pa.DataType) -> bool:
    """Whether a type holds text, also as categories.

    >>> is_text(pa.string()), is_text(pa.dictionary(pa.int32(), pa.string())), is_text(pa.null())
    (True, True, False)
    """
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(holds(kind) for holds in kinds)
