"""How devices are arranged: what `$PRMKD_MESH` asks for."""

import os

from prmkd_jax.common.errors import UserError

VARIABLE = "PRMKD_MESH"
"""DATAxMODEL, such as 2x4: batches over the first, rows of tables over the second."""


def asked_mesh() -> tuple[int, int] | None:
    """The devices of either axis that are asked for; None leaves it to the program.

    Raises:
        UserError: it is no pair of numbers.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    data, cross, model = text.partition("x")
    if not (cross and data.isdecimal() and model.isdecimal() and int(data) and int(model)):
        raise UserError(
            f"${VARIABLE}: found {text!r}, expected DATAxMODEL, such as 2x4: devices that share "
            "the batches, and devices that share the tables' rows"
        )
    return int(data), int(model)
