"""What `export --explain` adds to an artefact: the teachers as the student's card names them."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from bridge.teacher_vectors import Vectors, has_vectors, read_vectors
from experiments.stages.data import SYNTHETIC
from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.synthetic import synthetic_dataset
from prmkd_jax.serve.config import ExportConfig
from prmkd_jax.serve.explain import MOST_FITTED, MOST_JUDGED, TeacherView, view_teacher
from prmkd_jax.serve.exported import CARD, read_card


def teacher_views(config: ExportConfig) -> list[TeacherView]:
    """The teachers that the student was distilled from, read from the cache.

    Raises:
        UserError: the card names none, the data are other ones, or a teacher isn't in the cache.
    """
    card = read_card(Path(config.model))
    keys: dict[str, str] = card["record"].get("teacher_keys", {})
    if not keys:
        raise UserError(
            f"--explain: found no teachers in {Path(config.model) / CARD}, expected a student that "
            "was distilled by train or update"
        )
    dataset = _dataset(config, card)
    found = [
        (name, _vectors(name, key, config, card, dataset)) for name, key in sorted(keys.items())
    ]
    labels = {name: each["label"] for name, each in card["record"]["teachers"].items()}
    return [_view(name, labels.get(name, name), vectors, dataset) for name, vectors in found]


def _dataset(config: ExportConfig, card: dict[str, Any]) -> Dataset:
    trained = card["record"].get("settings", {})
    name = config.dataset or trained.get("dataset", card["dataset"]["name"])
    sizes = {
        size: trained[size] for size in ("synthetic_users", "synthetic_items") if size in trained
    }
    data = DataConfig(
        dataset=name,
        data_dir=config.data_dir,
        candidates=trained.get("candidates", "interactions"),
        **sizes,
    )
    if name == SYNTHETIC:
        dataset = synthetic_dataset(data)
    else:
        dataset = read_dataset(Path(data.data_dir), name, candidates=data.candidates)
    if dataset.fingerprint != card["dataset"]["fingerprint"]:
        raise UserError(
            f"--dataset: found {name} with fingerprint {dataset.fingerprint}, expected "
            f"{card['dataset']['fingerprint']}, the data that the student was trained on"
        )
    return dataset


def _vectors(
    name: str, key: str, config: ExportConfig, card: dict[str, Any], dataset: Dataset
) -> Vectors:
    folder = Cache(Path(config.cache_dir)).room("teachers") / f"{name}-{key}"
    if not has_vectors(folder):
        raise UserError(
            f"--cache_dir: found no teacher {name} at {folder}, expected the one that the student "
            "was distilled from"
        )
    found = read_vectors(folder, {"teacher": name, "key": key, "data": dataset.fingerprint})
    if not isinstance(found, Vectors):
        raise UserError(f"--explain: teacher {name} gives scores, expected teachers with vectors")
    return found


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
