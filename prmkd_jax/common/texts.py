"""Texts in files that a user names, or that a run has left."""

from pathlib import Path

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.reading import open_regular

LARGEST = 2**28  # bytes; a page with all of its figures takes a twentieth


def read_text(path: Path, named: str, wanted: str) -> str:
    """The UTF-8 text of a regular file.

    Args:
        path: the file; a pipe would be waited for, and a device never end.
        named: the file's name in error messages, such as its flag.
        wanted: the content expected, for an error.

    Raises:
        UserError: it can't be read, or holds another thing than text.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MB")
        return content.decode()
    except FileNotFoundError:
        raise UserError(f"{named}: found no such file, expected {wanted}") from None
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else first_line(error)
        raise UserError(f"{named}: can't be read ({said}), expected {wanted}") from error
