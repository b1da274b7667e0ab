"""Training states on disk; the only module that knows orbax."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from prmkd_jax.common.errors import UserError

_NAME = re.compile(r"epoch_(\d+)")


def save_checkpoint(folder: Path, epoch: int, state: Any, progress: dict[str, Any]) -> None:
    """Writes the state after an epoch, then removes the older ones.

    Orbax writes beside and renames, so a kill leaves the previous checkpoint whole.

    Args:
        folder: one folder a run.
        epoch: epochs done.
        state: pytree of arrays.
        progress: everything else that a resumed run needs, as JSON values.
    """
    leaves = {str(index): leaf for index, leaf in enumerate(jax.tree.leaves(state))}
    # The caller donates its arrays to the next step, so the save must be over on return.
    path = str(folder.absolute() / f"epoch_{epoch}")
    ocp.save(path, leaves, overwrite=True, custom_metadata=progress)
    for other in _epochs(folder):
        if other != epoch:
            shutil.rmtree(folder / f"epoch_{other}")


def load_checkpoint(folder: Path, like: Any) -> tuple[Any, dict[str, Any]] | None:
    """The newest state in a folder and its progress; None where there is none.

    Args:
        folder: one folder a run.
        like: pytree of arrays with the structure, shapes, dtypes and devices to be restored.

    Raises:
        UserError: if the arrays there are others, as after a change of the data.
    """
    epochs = _epochs(folder)
    if not epochs:
        return None
    path = folder.absolute() / f"epoch_{max(epochs)}"
    leaves, structure = jax.tree.flatten(like)
    abstract = {
        str(index): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        for index, leaf in enumerate(leaves)
    }
    metadata = ocp.metadata(str(path))
    _require_same(path, _shapes(metadata.metadata), _shapes(abstract))
    restored: Any = ocp.load(str(path), abstract)
    progress: Any = metadata.custom_metadata
    ordered = [restored[str(index)] for index in range(len(leaves))]
    return jax.tree.unflatten(structure, ordered), dict(progress or {})


def _shapes(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{array.dtype} {list(array.shape)}" for name, array in arrays.items()}


def _require_same(path: Path, found: dict[str, str], expected: dict[str, str]) -> None:
    for name in sorted(found.keys() | expected.keys(), key=int):
        if found.get(name) != expected.get(name):
            raise UserError(
                f"{path}: array {name}: found {found.get(name)}, expected {expected.get(name)}; "
                f"delete {path.parent} to train anew"
            )


def _epochs(folder: Path) -> list[int]:
    matches = (_NAME.fullmatch(path.name) for path in folder.glob("epoch_*"))
    return [int(match[1]) for match in matches if match]
