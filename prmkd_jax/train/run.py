"""One student to be trained, and what its training gives."""

import dataclasses
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int, Int32

from prmkd_jax.data.task import Task
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.distill.teacher_scores import TeacherScores, TeacherTables
from prmkd_jax.evaluate.evaluator import BestItems, UserRanks
from prmkd_jax.students.config import StudentConfig
from prmkd_jax.students.facts import Facts
from prmkd_jax.students.registry import about
from prmkd_jax.students.starts import ItemStart, begin_item_tables
from prmkd_jax.students.student import Params, create_student
from prmkd_jax.train.config import TrainConfig


@runtime_checkable
class TeacherSource(Protocol):
    """K teachers as the training loop sees them (`bridge.teacher_bank` is one).

    Attributes:
        names: the teachers' names.
        default_weights: w_k, summing to 1.
        tables: vectors that stay on the device and are scored inside the step; None where
            `for_batch` gives all scores of each batch.
    """

    names: tuple[str, ...]
    default_weights: Float[np.ndarray, " K"]
    tables: TeacherTables | None

    def for_batch(
        self, instance_ids: Int[np.ndarray, " B"], candidates: Int[np.ndarray, " C"]
    ) -> TeacherScores:
        """The scores of some items for some instances, by the teachers that `tables` lacks.

        Args:
            instance_ids: the instances whose prefixes the teachers have read; 0 is padding.
            candidates: item ids.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of one student with one seed.

    Attributes:
        task: data set and split.
        facts: the part of the task that the student may know; one object for all seeds, so that
            they share what is compiled.
        student: model and its sizes.
        train: optimisation and stopping.
        seed: seed of initialisation, batches and dropout.
        folder: folder of the checkpoints.
        start: initial parameters; None draws them from the seed.
        item_start: the vectors that the item tables begin from; None leaves them as drawn.
        distill: distillation; None for the plain student.
        teachers: source of the teachers' scores; None for the plain student.
        threshold: epsilon of the consistency rule (`train.calibrate`).
        best_items: the teachers' best items of every instance (`train.closed`), for closed columns.
        resume: continue from the folder's newest checkpoint.
        rank_test: rank the test instances at the end; False for runs that choose a setting.
        epochs: train exactly so many epochs, validate after none and keep the last; None stops
            early, by `train`.
    """

    task: Task
    facts: Facts
    student: StudentConfig
    train: TrainConfig
    seed: int
    folder: Path
    start: Params | None = None
    item_start: ItemStart | None = None
    distill: DistillConfig | None = None
    teachers: TeacherSource | None = None
    threshold: float = float("inf")
    best_items: Int32[np.ndarray, "N k"] | None = None
    resume: bool = False
    rank_test: bool = True
    epochs: int | None = None

    def __post_init__(self):
        if (self.distill is None) != (self.teachers is None):
            raise ValueError("a run has both teachers and a distillation, or neither")
        if self.start is not None and self.item_start is not None:
            raise ValueError("a run that begins from given weights has its item tables from there")

    @property
    def window(self) -> int:
        """Longest prefix that the student reads."""
        return self.facts.window

    @property
    def own_slot(self) -> bool:
        """Whether the student appends a token of its own to each prefix."""
        return about(self.student.student).own_slot


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained student at its best validation epoch.

    Attributes:
        params: the student's parameters.
        validation: ranks of the validation instances that were used for stopping.
        test: ranks of the test instances, computed once; None if not asked for.
        lists: the best items of the test instances; None like `test`.
        history: a record for each epoch.
        best_epoch: the epoch that was kept, counted from 1; 0 is the start.
        parameters: number of parameters that serving needs.
        train_seconds: wall-clock time of all training epochs, compilation included.
        evaluate_seconds: wall-clock time of all validations.
    """

    params: Params
    validation: UserRanks
    test: UserRanks | None
    lists: BestItems | None
    history: list[dict[str, Any]]
    best_epoch: int
    parameters: int
    train_seconds: float
    evaluate_seconds: float


def fresh_student(run: Run) -> tuple[nnx.GraphDef, Params]:
    """Structure and parameters of the run's student before its first step."""
    graphdef, state = create_student(run.student, run.facts, run.seed)
    params = nnx.to_pure_dict(state) if run.start is None else run.start
    if run.item_start is not None:
        tables = about(run.student.student).item_tables
        params = begin_item_tables(params, tables, run.item_start)
    # A copy, because the first step reuses the memory of what it is given.
    return graphdef, jax.tree.map(jnp.array, params)
