"""Named weights of a file, and whether they are those of a model."""

from collections.abc import Mapping, Sequence

import numpy as np

from prmkd_jax.common.errors import UserError


def require_weights(
    found: Mapping[str, Sequence[int]],
    wanted: Mapping[str, Sequence[int]],
    source: str,
    *,
    fresh: tuple[str, ...] = (),
) -> None:
    """Checks that a file has a model's weights, by name and shape.

    Args:
        found: the file's shapes by name.
        wanted: the model's.
        source: the file's name in error messages.
        fresh: beginnings of the names that the model may have beyond the file.

    Raises:
        UserError: names are missing, surplus or of another shape; all of them are listed.
    """
    told = {
        "missing": [key for key in wanted if key not in found and not key.startswith(fresh)],
        "surplus": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {list(found[key])} in place of {list(wanted[key])}"
            for key in wanted
            if key in found and tuple(found[key]) != tuple(wanted[key])
        ],
    }
    if any(told.values()):
        lists = "; ".join(
            f"{what}: {', '.join(sorted(keys))}" for what, keys in told.items() if keys
        )
        raise UserError(f"{source}: found weights that don't fit ({lists}), expected this model's")


def require_numbers(found: Mapping[str, np.ndarray], source: str) -> None:
    """Checks that weights are what a model computes with.

    Args:
        found: a file's weights by name.
        source: the file's name in error messages.

    Raises:
        UserError: one is of no floating type, or not finite.
    """
    for name, array in found.items():
        # bfloat16 and its like are of kind "V", NumPy not knowing them.
        if array.dtype.kind not in "fV":
            raise UserError(f"{source}: {name}: found weights of {array.dtype}, expected floats")
        finite = np.isfinite(array.astype(np.float32, copy=False))
        if not finite.all():
            raise UserError(
                f"{source}: {name}: found {(~finite).sum():,} of {finite.size:,} weights that are "
                "not finite, expected finite numbers"
            )
