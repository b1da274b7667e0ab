"""Where a cell stands in the user's files, for errors."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

_NAMES = 12
_NAME_CHARS = 40
_FOUND_CHARS = 60


@dataclasses.dataclass(frozen=True)
class Place:
    """A batch of rows of one file, and the column that is being read.

    Attributes:
        file: the file's path.
        first: number of the batch's first row.
        word: row, counted from 0, or line, counted from 1.
        column: name of the column.
        numbers: the number of each row, where they have gaps: blank lines are no rows.
    """

    file: str
    first: int = 0
    word: str = "row"
    column: str = ""
    numbers: Int64[np.ndarray, " rows"] | None = dataclasses.field(default=None, compare=False)

    def of(self, column: str) -> "Place":
        """The same rows, another column."""
        return dataclasses.replace(self, column=column)

    def column_of(self) -> str:
        """The file and the column."""
        return f"{self.file}, {self.column}"

    def row(self, index: int) -> str:
        """The file, one row of the batch, and the column."""
        return f"{self.file}, {self.word} {self.number(index)}, {self.column}"

    def number(self, index: int) -> int:
        """The number of one row of the batch in its file."""
        return self.first + index if self.numbers is None else int(self.numbers[index])


def short(value: object) -> str:
    """What was found, as Python writes it, on one line of bounded length.

    >>> short("a\\nb"), len(short("x" * 100_000)), len(short(["x"] * 100_000))
    ("'a\\\\nb'", 62, 60)
    """
    if isinstance(value, str):
        return repr(value[:_FOUND_CHARS])
    return repr(value)[:_FOUND_CHARS]


def shown(names: Sequence[str]) -> str:
    """Names found in a file, on one line of bounded length.

    >>> shown(["user", "a\\nb", " item"])
    "user, a b, ' item'"
    """
    lines = (" ".join(name.split())[:_NAME_CHARS] for name in names[:_NAMES])
    # A blank that a name begins with is the reason why it isn't found.
    pairs = zip(lines, names, strict=False)
    quoted = (repr(name[:_NAME_CHARS]) if name != name.strip() else line for line, name in pairs)
    return ", ".join(quoted) + (", …" if len(names) > _NAMES else "") or "none"
