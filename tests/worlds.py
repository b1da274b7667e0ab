"""Small data sets, teachers and runs that several tests share."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from prmkd_jax.data.dataset import TEXT_FIELDS, Catalogue, Dataset, Interactions
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts, make_facts
from prmkd_jax.train.config import TrainConfig
from prmkd_jax.train.run import Run

MAX_SEQ_LEN = 6
# 5 rows of 13 slots, so that even two of the longest segments share a row.
BATCH_SIZE = 65


def from_histories(histories: Sequence[Sequence[int]], num_items: int) -> Dataset:
    """A data set without texts, its users and items numbered as given."""
    indptr = np.concatenate([[0], np.cumsum([len(history) for history in histories])])
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return Dataset(
        "hand-made",
        Interactions(indptr.astype(np.int64), items),
        Catalogue(dict.fromkeys(TEXT_FIELDS, ("",) * num_items)),
        tuple(f"u{user}" for user in range(len(histories))),
        tuple(f"i{item}" for item in range(num_items)),
    )


def random_world(users: int = 60, items: int = 40, longest: int = 14, seed: int = 0) -> Dataset:
    """Histories of 1 to `longest` items, with repeats, some beyond `MAX_SEQ_LEN`."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[1, 2, 3, longest], rng.integers(1, longest + 1, users - 4)])
    return from_histories([rng.integers(0, items, n).tolist() for n in lengths], items)


def cycle_world(users: int = 120, items: int = 40, length: int = 8) -> Dataset:
    """Item i is always followed by item i + 1, so a model that learns ranks it first."""
    histories = [[(user + step) % items for step in range(length)] for user in range(users)]
    return from_histories(histories, items)


def shelf_world(users: int = 90, shelves: int = 6, size: int = 8, length: int = 9) -> Dataset:
    """Users walk around one shelf each, some shelves more visited than others.

    A shelf's items have one brand and two categories in turn. Who knows the shelf alone ranks
    the target within `size` places, who knows the last item ranks it first.
    """
    rng = np.random.default_rng(0)
    shares = np.arange(shelves, 0, -1) / np.arange(shelves, 0, -1).sum()
    walks = zip(rng.choice(shelves, users, p=shares), rng.integers(size, size=users), strict=True)
    histories = [[shelf * size + (at + n) % size for n in range(length)] for shelf, at in walks]
    world = from_histories(histories, shelves * size)
    brands = tuple(f"brand {item // size}" for item in range(world.num_items))
    kinds = tuple(
        f"shelf {item // size}, {'odd' if item % 2 else 'even'}" for item in range(world.num_items)
    )
    texts = {**world.catalogue.texts, "brand": brands, "categories": kinds}
    return dataclasses.replace(world, catalogue=Catalogue(texts))


def student_config(**changes: Any) -> StudentConfig:
    """A student that compiles in a moment, and whose steps take one."""
    small = {"hidden_size": 12, "num_layers": 1, "num_heads": 2, "inner_size": 10, "dropout": 0.3}
    # DeepFM's MLP reads all pairs of an instance and a drawn item.
    pairs = {"mlp_sizes": (12, 8), "num_negatives": 32}
    return StudentConfig(**{**small, **pairs, **changes})


def task_of(dataset: Dataset) -> Task:
    """The data set with its leave-one-out split, whatever part that leaves empty."""
    return Task(dataset, leave_one_out(dataset.interactions))


def facts(dataset: Dataset, max_seq_len: int = MAX_SEQ_LEN, second: Dataset | None = None) -> Facts:
    """What a student may know of a data set."""
    return make_facts(task_of(dataset), max_seq_len, second)


def make_run(
    dataset: Dataset,
    folder: Path,
    *,
    max_seq_len: int = MAX_SEQ_LEN,
    second_domain: Dataset | None = None,
    **changes: Any,
) -> Run:
    """A plain run that keeps its last state alone; `changes` are fields of `Run`."""
    train = TrainConfig(
        batch_size=BATCH_SIZE,
        learning_rate=3e-3,
        max_epochs=8,
        patience=8,
        eval_batch_size=32,
        # Writing a state takes longer than an epoch at this size.
        checkpoint_seconds=60,
    )
    task = task_of(dataset)
    fields: dict[str, Any] = {
        "task": task,
        "facts": make_facts(task, max_seq_len, second_domain),
        "student": student_config(),
        "train": train,
        "seed": 3,
        "folder": folder,
    }
    return Run(**{**fields, **changes})


class RandomTeachers:
    """K teachers whose vectors were drawn; a training loop's source of scores.

    Args:
        dataset: whose instances and items they know.
        teachers: their number.
        side: `tables` that stay on the device, or `scores` of each batch.
    """

    def __init__(self, dataset: Dataset, teachers: int = 3, side: str = "tables"):
        rng = np.random.default_rng(11)
        sizes = len(dataset.interactions.items), dataset.num_items
        self.names = tuple(f"teacher{k}" for k in range(teachers))
        self.default_weights = np.arange(1, teachers + 1) / np.arange(1, teachers + 1).sum()
        self.instances = [rng.normal(size=(sizes[0], 4 + k)) for k in range(teachers)]
        self.items = [rng.normal(size=(sizes[1], 4 + k)) for k in range(teachers)]
        self.scales = 1.0 + np.arange(teachers)
        self.tables: TeacherTables | None = TeacherTables(
            tuple(jnp.asarray(x, jnp.float32) for x in self.instances),
            tuple(jnp.asarray(x, jnp.float32) for x in self.items),
            jnp.asarray(self.scales, jnp.float32),
            jnp.ones((sizes[0], teachers), bool),
        )
        if side == "scores":
            self.tables = None

    def logits(self, instance_ids: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """Their training logits [K, B, C] in float64."""
        pairs = zip(self.instances, self.items, self.scales, strict=True)
        return np.stack([s * a[instance_ids] @ b[candidates].T for a, b, s in pairs])

    def for_batch(self, instance_ids: np.ndarray, candidates: np.ndarray) -> TeacherScores:
        """See `train.run.TeacherSource`."""
        scores = self.logits(instance_ids, candidates).astype(np.float32).transpose(1, 0, 2)
        available = np.ones((len(instance_ids), len(self.names)), dtype=bool)
        return TeacherScores(jnp.asarray(scores), jnp.asarray(available))


def distilled(run: Run, **changes: Any) -> dict[str, Any]:
    """The fields that make a run a distilled one; `changes` are fields of `DistillConfig`."""
    config = DistillConfig(**changes)
    return {"distill": config, "teachers": RandomTeachers(run.task.dataset), "threshold": 0.05}


def same_bits(one: Any, other: Any) -> bool:
    """Whether two pytrees are equal in structure, dtype and every bit."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        np.asarray(a).dtype == np.asarray(b).dtype
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )
