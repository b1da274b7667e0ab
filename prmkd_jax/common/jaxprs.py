"""What a traced program's equations say, by JAX's version. Nothing here imports jax."""

from collections.abc import Mapping
from typing import Any


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a scan's inputs are constant, and how many are carried on.

    Args:
        params: the parameters of the scan's equation.
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    # Since JAX 0.11 the inputs' trees: constants, what is carried, what is scanned.
    constants, carried, _ = params["ft_in"].unpack()
    return len(constants), len(carried)
