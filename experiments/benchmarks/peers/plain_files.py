"""The data of a task as plain files, which every peer reads, and what it is told beside them."""

from pathlib import Path

import numpy as np

from experiments.cli.settings import Settings
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import write_text
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task

NAME = "peers"
"""Of the data set, as RecBole names folder and file."""


def write_interactions(folder: Path, task: Task) -> Path:
    """Writes `peers/peers.inter`: user, item, place in the history; tabs, RecBole's header.

    The last two places of a user are validation and test, the others training, for every peer.

    Raises:
        UserError: the split isn't that.
    """
    interactions = task.dataset.interactions
    usual = leave_one_out(interactions)
    if not all(
        np.array_equal(ours, theirs)
        for ours, theirs in zip(vars(task.split).values(), vars(usual).values(), strict=True)
    ) or np.any(interactions.lengths < 3):
        raise UserError(
            "--suite=peers: found another split or users with fewer than three items, expected "
            "--split=leave_one_out and at least three a user: other libraries know no other"
        )
    places = np.arange(len(interactions.items)) - interactions.indptr[interactions.users]
    rows = np.stack([interactions.users, interactions.items, places], axis=1)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"{user}\t{item}\t{place}" for user, item, place in rows.tolist()]
    path = folder / NAME / f"{NAME}.inter"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")
    return path


def told(task: Task, settings: Settings, folder: Path) -> dict[str, object]:
    """What every driver is told: where the data are, sizes, optimiser, stopping rule.

    `sequences` is how many users' histories a batch of `batch_size` instances has on average, for
    libraries that count a batch in histories.
    """
    student, train = settings.student, settings.train
    users = int((task.split.train_end - task.dataset.interactions.indptr[:-1] > 1).sum())
    per_user = len(task.split.train) / max(users, 1)
    return {
        "data": str(folder),
        "items": task.dataset.num_items,
        "window": settings.data.max_seq_len,
        "batch_size": train.batch_size,
        "sequences": max(1, round(train.batch_size / per_user)),
        "hidden_size": student.hidden_size,
        "num_layers": student.num_layers,
        "num_heads": student.num_heads,
        "inner_size": student.inner_size,
        "dropout": student.dropout,
        "mlp_sizes": list(student.mlp_sizes),
        "learning_rate": train.learning_rate,
        "weight_decay": train.weight_decay,
        "patience": train.patience,
        "max_epochs": train.max_epochs,
        "seed": settings.run.seeds[0],
    }
