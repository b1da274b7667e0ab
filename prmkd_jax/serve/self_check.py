"""The self-check of an artefact: histories with the answers that were right when it was written."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prmkd_jax.common.arrays import read_npz
from prmkd_jax.common.errors import UserError, first_line

CHECK = "check.npz"
# The arrays, with their axes and kind of numbers; along the first axis are the histories.
_ARRAYS = {
    "history": (2, "i"),
    "users": (1, "i"),
    "excluded": (2, "i"),
    "items": (2, "i"),
    "scores": (2, "f"),
    "vectors": (2, "f"),
}
# Bytes of an array, unpacked: eight histories with their vectors and answers need far fewer.
_MOST_BYTES = 2**24
# Largest difference of scores, as a share of the largest score, and where that is below 1.
TOLERANCE = 1e-4

Ids = list[str]
Answers = Callable[[Sequence[Ids], Sequence[str | None], int], list[list[tuple[int, float]]]]
"""Histories, users and k → rows and scores, best first."""


def read_check(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a self-check.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        check = read_npz(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: found no readable self-check ({first_line(error)})") from None
    right = all(
        name in check
        and check[name].ndim == axes
        and check[name].dtype.kind == kind
        and len(check[name]) == len(check["history"])
        for name, (axes, kind) in _ARRAYS.items()
    )
    if not right or not check["items"].size or check["items"].shape != check["scores"].shape:
        found = ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in check.items())
        raise UserError(f"{path}: found {found or 'nothing'}, expected {', '.join(_ARRAYS)}")
    return check


def check_answers(
    path: Path, item_ids: Sequence[str], user_ids: Sequence[str], answers: Answers
) -> None:
    """Compares a loaded student's answers with those of the file.

    Args:
        path: the path of the self-check.
        item_ids: id of each item's row.
        user_ids: id of each user's row; empty where users have none.
        answers: the student.

    Raises:
        UserError: the file is damaged, or the student answers otherwise.
    """
    check = read_check(path)
    count, k = check["items"].shape
    items = np.full((count, k), -1, np.int32)
    scores = np.full((count, k), -np.inf, np.float32)
    try:
        histories = [[item_ids[int(item)] for item in row if item >= 0] for row in check["history"]]
        users = [user_ids[int(user)] if user >= 0 else None for user in check["users"]]
    except (IndexError, TypeError):
        raise UserError(f"{path}: found rows that the student doesn't have") from None
    for row, answer in enumerate(answers(histories, users, k)):
        for place, (item, score) in enumerate(answer):
            items[row, place], scores[row, place] = item, score
    require_same(path.parent, [items, scores], check)


def require_same(path: Path, found: Sequence[Any], check: Mapping[str, np.ndarray]) -> None:
    """Scores must agree, and items but for those whose scores are all but equal.

    Raises:
        UserError: they don't; it names what was run.
    """
    items, scores = (np.asarray(each) for each in found)
    expected = check["scores"]
    same = items.shape == scores.shape == expected.shape and close(scores, expected)
    if same:
        gaps = np.abs(np.diff(expected, axis=1)) <= TOLERANCE * _size(expected)
        near = np.pad(gaps, ((0, 0), (1, 1)))
        # The last place has no neighbour to be told from.
        near[:, -1] = True
        same = bool(((items == check["items"]) | near[:, 1:] | near[:, :-1]).all())
    if not same:
        raise UserError(f"{path}: gives other items or scores than the student, expected its own")


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether scores agree, the infinite ones exactly."""
    finite = np.isfinite(expected)
    if found.shape != expected.shape or not (np.isfinite(found) == finite).all():
        return False
    difference = np.abs(found[finite] - expected[finite])
    return bool((difference <= TOLERANCE * _size(expected)).all())


def _size(scores: np.ndarray) -> float:
    return max(1.0, float(np.abs(scores[np.isfinite(scores)]).max(initial=0)))
