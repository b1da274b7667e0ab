"""What `export --explain` adds to an artefact: the teachers as the student's card names them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from bridge.teacher_vectors import Vectors, has_vectors, read_vectors
from experiments.stages.data import SYNTHETIC, trained_data
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.serve.card import Card
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.explain import MOST_FITTED, MOST_JUDGED, TeacherView, view_teacher
from prmkd_jax.serve.exported import CARD, read_card
from teachers_torch.config import CARD as TEACHER_CARD


class Explaining(NamedTuple):
    """The teachers that the student was distilled from.

    Attributes:
        views: those that give vectors.
        left_out: labels of those that give scores, of which nothing can be estimated.
        student: the digest of the student's card; None where nothing is to be explained.
    """

    views: list[TeacherView]
    left_out: list[str]
    student: str | None


def teacher_views(config: ExportConfig) -> Explaining:
    """The teachers that the student was distilled from, read from the cache.

    Raises:
        UserError: the card names none, the data are other ones, a teacher isn't in the cache, or
            none gives vectors.
    """
    card = read_card(Path(config.model))
    keys = card["record"].get("teacher_keys", {})
    if not keys:
        raise UserError(
            f"--explain: found no teachers in {Path(config.model) / CARD}, expected a student that "
            "was distilled by train or update"
        )
    dataset = _dataset(config, card)
    found = {name: _vectors(name, key, config, dataset) for name, key in sorted(keys.items())}
    teachers = card["record"].get("teachers") or {}
    labels = {name: each["label"] for name, each in teachers.items()}
    given = {name: vectors for name, vectors in found.items() if vectors is not None}
    if not given:
        raise UserError(
            f"--explain: found {', '.join(found)}, which give scores alone, expected a student of "
            "at least one teacher with vectors"
        )
    return Explaining(
        [_view(name, labels.get(name, name), each, dataset) for name, each in given.items()],
        [labels.get(name, name) for name in found if name not in given],
        card["digest"],
    )


def _dataset(config: ExportConfig, card: Card) -> Dataset:
    data = trained_data(card, Path(config.model) / CARD, config.dataset, config.data_dir)
    name = data.dataset
    if name == SYNTHETIC:
        dataset = synthetic_dataset(data)
    else:
        dataset = read_dataset(Path(data.data_dir), name, candidates=data.candidates)
    expected = card["dataset"].get("fingerprint", "the one that its card lacks")
    if dataset.fingerprint != expected:
        raise UserError(
            f"--dataset: found {name} with fingerprint {dataset.fingerprint}, expected "
            f"{expected}, the data that the student was trained on"
        )
    return dataset


def _vectors(name: str, key: str, config: ExportConfig, dataset: Dataset) -> Vectors | None:
    """A teacher's vectors; None where it gives scores, on disk as lists or live."""
    folder = Cache(Path(config.cache_dir)).room("teachers") / f"{name}-{key}"
    if not has_vectors(folder):
        # Of one that is asked for the scores of every batch there is a card alone.
        if (folder / TEACHER_CARD).is_file():
            return None
        raise UserError(
            f"--cache_dir: found no teacher {name} at {folder}, expected the one that the student "
            "was distilled from"
        )
    found = read_vectors(folder, {"teacher": name, "key": key, "data": dataset.fingerprint})
    return found if isinstance(found, Vectors) else None


def _view(name: str, label: str, vectors: Vectors, dataset: Dataset) -> TeacherView:
    split, rng = leave_one_out(dataset.interactions), np.random.default_rng(0)
    known = np.asarray(vectors.instances[:].any(axis=1))

    def some(instances: Int64[np.ndarray, " n"], most: int) -> Int64[np.ndarray, " some"]:
        there = instances[known[instances]]
        return np.sort(rng.permutation(there)[:most])

    fitted, judged = some(split.train, MOST_FITTED), some(split.test, MOST_JUDGED)
    return view_teacher(
        name,
        label,
        vectors.items,
        vectors.instances[fitted],
        _histories(dataset, fitted),
        (vectors.instances[judged], _histories(dataset, judged)),
    )


def _histories(dataset: Dataset, instances: Int64[np.ndarray, " n"]) -> list[list[int]]:
    interactions = dataset.interactions
    starts = interactions.indptr[interactions.users[instances]]
    return [interactions.items[a:b].tolist() for a, b in zip(starts, instances, strict=True)]
