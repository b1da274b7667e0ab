"""User vectors at serving time: the users' own, folded in from a history, or the mean user's."""

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.exported import Exported, is_user_table
from prmkd_jax.serve.requests import IndexedHistories
from prmkd_jax.students.student import Params, flatten_params, unflatten_params


def own_vectors(
    exported: Exported, read: IndexedHistories, rows: int
) -> Float32[np.ndarray, "rows D"]:
    """The users' own vectors, or those that their histories make (LightGCN).

    Args:
        exported: the student.
        read: the histories, at most `rows`; the last rows stay zero.
        rows: how many vectors.

    Raises:
        ValueError: the export holds no user vectors.
        UserError: a user has no vector and the student can't make one.
    """
    own, fold_in = exported.users, exported.fold_in
    if own is None:
        raise ValueError("the export holds no user vectors")
    out = np.zeros((rows, own.shape[1]), np.float32)
    for row, (items, user) in enumerate(zip(read.items, read.users, strict=True)):
        if user >= 0:
            out[row] = own[user]
        elif fold_in is None:
            raise UserError(
                f"{exported.card['label']}: found a user without a vector, expected one "
                "of the users that it was trained for"
            )
        elif items:
            distinct = sorted(set(items))
            out[row] = fold_in[distinct].sum(0) / len(distinct) ** 0.5
    return out


def with_mean_user(params: Params) -> Params:
    """Adds a row to the users' table, if there is one: the mean of all users."""
    weights = flatten_params(params)
    tables = {
        name: np.concatenate([table, table.mean(0, keepdims=True)])
        for name, table in weights.items()
        if is_user_table(name)
    }
    return unflatten_params({**weights, **tables}, params) if tables else params
