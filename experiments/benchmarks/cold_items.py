"""`measure cold_items`: what rows are worth that a map gives to items held out of training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.benchmarks.held_out import Measuring, Student, metrics
from experiments.stages.teachers import teacher_identities, vectors_folder
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.subset import without_items
from prmkd_jax.data.task import Task
from prmkd_jax.evaluate.metrics import expected_ranks
from prmkd_jax.serve.histories import instance_targets
from prmkd_jax.serve.new_items import text_vectors
from prmkd_jax.serve.recommender import Recommender
from teachers_torch.config import TextConfig
from teachers_torch.items.text import encode_texts, item_sentences
from teachers_torch.store import load

Table = dict[str, dict[str, Any]]


def measure(measuring: Measuring) -> tuple[list[Student], Callable[[int], Table]]:
    """The two students, with and without the held-out items, and how they are measured."""
    task = measuring.task
    if not any(text.strip() for text in item_sentences(task.dataset.catalogue)):
        raise UserError(
            f"data set {task.dataset.name}: found no texts, expected some: rows of new items are "
            "made of them"
        )
    cold = measuring.held(task.dataset.num_items)
    warm = measuring.task_of(without_items(task.dataset, ~cold))
    students = [Student("warm", warm), Student("all", task)]

    def of_seed(seed: int) -> Table:
        return _measure(measuring, students, cold, seed)

    return students, of_seed


def _measure(measuring: Measuring, students: list[Student], cold: np.ndarray, seed: int) -> Table:
    task = measuring.task
    student, complete = (measuring.train(each, seed) for each in students)
    test = task.split.test
    is_cold = cold[task.dataset.interactions.items[test]]
    asked = instance_targets(task.dataset, test[is_cold])
    warm = students[0].task
    others = instance_targets(warm.dataset, warm.split.test)
    found: Table = {}

    def both(name: str, recommender: Recommender) -> None:
        for part, targets in (("held-out items", asked), ("other items", others)):
            ranks = recommender.ranks(targets.histories, targets.targets, users=targets.users)
            found[f"{part}: {name}"] = metrics(ranks)

    both("no row", student)
    for name, vectors in _vectors(measuring, warm).items():
        known, new = vectors[~cold], vectors[cold]
        ids = [task.dataset.item_ids[row] for row in np.flatnonzero(cold)]
        both(f"row from {name}", student.add_items(ids, new, known))
    texts = _vectors(measuring, warm, teachers=False)["text vectors"]
    found["held-out items: text alone, no student"] = metrics(_by_text(texts, task, test[is_cold]))
    found["held-out items: trained on, same student"] = metrics(
        complete.ranks(asked.histories, asked.targets, users=asked.users)
    )
    return found


def _vectors(
    measuring: Measuring, warm: Task, *, teachers: bool = True
) -> dict[str, Float[np.ndarray, "V d"]]:
    """What is known of all items by name of the source; teachers were tuned without the cold."""
    settings, dataset = measuring.settings, measuring.task.dataset
    cache = Cache(Path(settings.run.cache_dir))
    sentences = item_sentences(dataset.catalogue)
    titles = dataset.catalogue.texts.get("title", ())
    out = {"text vectors": encode_texts(sentences, settings.teachers.get(TextConfig), cache)}
    if any(titles):
        out["words of titles"] = text_vectors(titles, titles)
    for identity in teacher_identities(warm, settings) if teachers else ():
        # Tuned on the warm items; what it knows of an item by its text, it knows of any.
        teacher, _ = load(
            identity.name, vectors_folder(cache, identity), measuring.task, settings.teachers,
            cache=cache, log=lambda event: None,
        )  # fmt: skip
        out[f"teacher {identity.name}"] = teacher.encode_items()
    return out


def _by_text(vectors: np.ndarray, task: Task, instances: np.ndarray) -> list[list[float]]:
    """Ranks by the cosine of an item's text with that of the newest item read."""
    items = task.dataset.interactions.items
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores = unit[items[instances - 1]] @ unit.T
    return [[rank] for rank in expected_ranks(scores, items[instances])]
