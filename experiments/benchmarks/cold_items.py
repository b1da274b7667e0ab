"""`measure cold_items`: what rows are worth that a map gives to items held out of training."""

from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float

from experiments.benchmarks.held_out import Measuring, Plan, PlannedStudent, Table, metrics
from experiments.stages.teachers import teacher_identities, vectors_folder
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.subset import without_items
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import expected_ranks
from prmkd_jax.serve.histories import instance_targets
from prmkd_jax.serve.new_items import text_vectors
from prmkd_jax.serve.recommender import Recommender
from teachers_torch.items.inputs import has_texts, text_inputs, texts_identity
from teachers_torch.store import load
from teachers_torch.teacher import Teacher, gives_scores

TEXTS = "text vectors"
RECENT = (1.0, 0.5, 0.25)
ROWS_AT_ONCE = 1024


def measure(measuring: Measuring) -> Plan:
    """The two students, with and without the held-out items, and how they are measured.

    Raises:
        UserError: there are no texts, or their encoder or file is missing or wrong.
    """
    task = measuring.task
    texts = measuring.settings.teachers.text
    if not has_texts(task.dataset, texts):
        raise UserError(
            f"data set {task.dataset.name}: found no texts, expected some: rows of new items are "
            "made of them"
        )
    cold = measuring.held(task.dataset.num_items)
    is_cold = cold[task.targets(task.split.test)]
    measuring.require_some(is_cold, "an item that is held out")
    measuring.require_some(~is_cold, "another item")
    warm = measuring.task_of(without_items(task.dataset, ~cold))
    vectors = _vectors(measuring, None)[TEXTS]
    taught = measuring.options.text_teacher
    students = [
        PlannedStudent("warm", warm, _text_teacher(warm, vectors[~cold]) if taught else None),
        PlannedStudent("all", task, _text_teacher(task, vectors) if taught else None),
    ]

    def of_seed(seed: int) -> Table:
        return _measure(measuring, students, cold, seed)

    return Plan(students, of_seed, {"texts": texts_identity(task.dataset, texts)})


def _measure(
    measuring: Measuring, students: list[PlannedStudent], cold: np.ndarray, seed: int
) -> Table:
    """Every way to rank the held-out items, on targets of which a share is held out."""
    task = measuring.task
    warm = students[0].task
    student, complete = (measuring.train(each, seed) for each in students)
    test = task.split.test
    is_cold = cold[task.dataset.interactions.items[test]]
    asked = instance_targets(task.dataset, test)
    found: Table = {}

    def note(name: str, ranks: list[list[float]]) -> None:
        flat = np.array([row[0] for row in ranks])
        parts = {"1 held-out targets": is_cold, "2 other targets": ~is_cold}
        for part, chosen in {**parts, "3 all targets": is_cold | ~is_cold}.items():
            found[f"{part}: {name}"] = metrics(flat[chosen])

    def ranked(recommender: Recommender) -> list[list[float]]:
        return recommender.ranks(asked.histories, asked.targets, users=asked.users)

    vectors = _vectors(measuring, None if students[0].vectors is not None else warm)
    note("no row", ranked(student))
    ids = [task.dataset.item_ids[row] for row in np.flatnonzero(cold)]
    for name, known in vectors.items():
        larger = student.add_items(ids, known[cold], known[~cold])
        note(f"row from {name}", ranked(larger))
    note("text alone, no student", _by_text(vectors[TEXTS], task, test))
    note("trained on all items", ranked(complete))
    return found


def _text_teacher(task: Task, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of instances and items that know texts alone; nothing is learned for them."""
    interactions = task.dataset.interactions
    unit = _unit(items)
    instances = np.zeros((len(interactions.items), items.shape[1]))
    places = np.arange(len(interactions.items))
    first = interactions.indptr[interactions.users]
    for back, weight in enumerate(RECENT, start=1):
        there = places - back >= first
        instances[there] += weight * unit[interactions.items[places[there] - back]]
    return instances, unit


def _vectors(measuring: Measuring, warm: Task | None) -> dict[str, Float[np.ndarray, "V d"]]:
    """What is known of all items by name of the source.

    Args:
        measuring: the measurement.
        warm: the task that the teachers were tuned on; None for texts alone.
    """
    settings = measuring.settings
    dataset = measuring.task.dataset
    cache = Cache(Path(settings.run.cache_dir))
    titles = dataset.catalogue.texts.get("title", ())
    texts = text_inputs(dataset, settings.teachers.text, 0.0, cache, lambda event: None)
    out = {TEXTS: texts.features}
    if any(titles):
        out["words of titles"] = text_vectors(titles, titles)
    for identity in () if warm is None else teacher_identities(warm, settings):
        # Tuned on the warm items; what it knows of an item by its text, it knows of any.
        teacher, _ = load(
            identity.name, vectors_folder(cache, identity), measuring.task, settings.teachers,
            cache=cache, log=lambda event: None,
        )  # fmt: skip
        if not gives_scores(teacher):
            out[f"teacher {identity.name}"] = cast(Teacher, teacher).encode_items()
    return out


def _by_text(vectors: np.ndarray, task: Task, instances: np.ndarray) -> list[list[float]]:
    """Ranks by the cosine of an item's text with that of the newest item read."""
    items = task.dataset.interactions.items
    unit = _unit(vectors)
    ranks: list[list[float]] = []
    for first in range(0, len(instances), ROWS_AT_ONCE):
        some = instances[first : first + ROWS_AT_ONCE]
        scores = unit[items[some - 1]] @ unit.T
        ranks += [[rank] for rank in expected_ranks(scores, items[some])]
    return ranks


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
