"""`measure fold_ins`: users with a vector of their own against users that are folded in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks.held_out import Measuring, Plan, PlannedStudent, Table, metrics
from experiments.stages.students import student_facts
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.subset import without_users
from prmkd_jax.data.task import Task
from prmkd_jax.serve.exported import knows_users
from prmkd_jax.serve.histories import instance_targets
from prmkd_jax.serve.recommender import Recommender

Row = dict[str, Any]
Users = Sequence[str] | None


def measure(measuring: Measuring) -> Plan:
    """The two students, with and without the held-out users, and how they are measured.

    Raises:
        UserError: the student has no vectors of its users, or --text_teacher was asked for.
    """
    if measuring.options.text_teacher:
        raise UserError(
            "--text_teacher: found it for fold_ins, expected it for cold_items only: fold_ins "
            "takes --teachers"
        )
    task, student = measuring.task, measuring.settings.student
    if not knows_users(student, student_facts(task, measuring.settings)):
        raise UserError(
            f"--student: found {student.student}, which knows no users, expected one that has a "
            "vector for each"
        )
    held = measuring.held(task.dataset.num_users)
    of_held = held[task.dataset.interactions.users[task.split.test]]
    measuring.require_some(of_held, "a user who is held out")
    students = [
        PlannedStudent("all", task),
        PlannedStudent("others", measuring.task_of(without_users(task.dataset, ~held))),
    ]

    def of_seed(seed: int) -> Table:
        complete, other = (measuring.train(student, seed) for student in students)
        test = task.split.test
        instances = test[held[task.dataset.interactions.users[test]]]
        asked = instance_targets(task.dataset, instances)
        # What a vector of the user's own has seen, where it doesn't depend on the prefix.
        trained = [
            row[: len(row) - _later(task, n)]
            for row, n in zip(asked.histories, instances, strict=True)
        ]

        def ranked(recommender: Recommender, read: list[list[str]], users: Users = None) -> Row:
            ranks = recommender.ranks(read, asked.targets, users=users)
            return metrics(np.array([row[0] for row in ranks]))

        return {
            "trained on these users: own vectors": ranked(complete, asked.histories, asked.users),
            "trained on these users: folded in": ranked(complete, asked.histories),
            "never saw these users: folded in": ranked(other, asked.histories),
            "never saw these users: folded in by their training part": ranked(other, trained),
        }

    return Plan(students, of_seed)


def _later(task: Task, instance: np.int64) -> int:
    """How many items of a test prefix lie past the training part."""
    user = task.dataset.interactions.users[instance]
    return int(instance - task.split.train_end[user])
