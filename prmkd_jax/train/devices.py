"""How devices are arranged: what `$PRMKD_MESH` asks for."""

import os
import re

from prmkd_jax.common.errors import UserError

VARIABLE = "PRMKD_MESH"
"""DATAxMODEL, such as 2x4: batches over the first, rows of tables over the second."""

_SHAPE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})")


def asked_mesh() -> tuple[int, int] | None:
    """The devices of either axis that are asked for; None leaves it to the program.

    Raises:
        UserError: it is no pair of numbers.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    shape = _SHAPE.fullmatch(text)
    if shape is None or not (int(shape[1]) and int(shape[2])):
        found = repr(text) if len(text) <= 60 else f"{text[:57]!r}..."
        raise UserError(
            f"${VARIABLE}: found {found}, expected DATAxMODEL, such as 2x4: devices that share "
            "the batches, and devices that share the tables' rows"
        )
    return int(shape[1]), int(shape[2])
