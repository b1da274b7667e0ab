"""Small data sets and batches made by hand, shared by the teachers' tests."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch

from prmkd_jax.common.cache import Cache
from prmkd_jax.data.dataset import Catalogue, Dataset, Interactions
from prmkd_jax.data.splits import leave_one_out
from prmkd_jax.data.task import Task
from teachers_torch import registry, tuning
from teachers_torch.sequence.encoder import TensorBatch
from teachers_torch.settings import TeacherSettings

TEXT_SIZE, IMAGE_SIZE = 16, 5


def interactions_of(*histories: list[int]) -> Interactions:
    """One user a history."""
    indptr = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    return Interactions(indptr, np.concatenate(histories).astype(np.int32))


def ring_world(users: int = 60, items: int = 20, length: int = 9) -> Dataset:
    """Every user walks the ring of items, one step at a time: the next item is certain.

    Every third item has no image.
    """
    rng = np.random.default_rng(0)
    starts = rng.integers(items, size=users)
    histories = [[(start + step) % items for step in range(length)] for start in starts]
    images = rng.normal(size=(items, IMAGE_SIZE)).astype(np.float16)
    rows = np.where(np.arange(items) % 3 == 0, -1, np.arange(items)).astype(np.int32)
    texts = {"title": tuple(f"item {i}" for i in range(items))}
    return Dataset(
        "ring",
        interactions_of(*histories),
        Catalogue(texts, images, rows),
        tuple(f"u{u}" for u in range(users)),
        tuple(f"i{i}" for i in range(items)),
    )


def text_vectors(sentences, *_) -> np.ndarray:
    """Stands in for the text encoder: a vector of norm 1 drawn from each sentence's hash."""
    seeds = [int(hashlib.sha256(s.encode()).hexdigest()[:8], 16) for s in sentences]
    rows = np.stack([np.random.default_rng(seed).normal(size=TEXT_SIZE) for seed in seeds])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def packed_batch(segments: list[list[int]], rows: int, length: int, targets=None) -> TensorBatch:
    """Places segments left to right into rows; every real slot is asked."""
    shape = (rows, length)
    item_seq, ids, positions = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    row, column = 0, 0
    for number, segment in enumerate(segments, start=1):
        if column + len(segment) > length:
            row, column = row + 1, 0
        place = (row, slice(column, column + len(segment)))
        item_seq[place], ids[place], positions[place] = segment, number, range(len(segment))
        column += len(segment)
    slots = np.flatnonzero(ids)
    targets = np.zeros(len(slots)) if targets is None else np.asarray(targets)
    arrays = (item_seq, ids, positions, slots, targets)
    return TensorBatch(*(torch.from_numpy(a.astype(np.int64)) for a in arrays))


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Gives every parameter, biases and gates too, a value that matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def to_numpy(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The state dict in float64."""
    return {k: v.detach().double().numpy() for k, v in model.state_dict().items()}


def settings_of(*configs, base=None, **fields) -> TeacherSettings:
    """Settings with these configurations; the other ones and fields are `base`'s."""
    base = base or TeacherSettings()
    of = {**base.of, **{type(config): config for config in configs}}
    return dataclasses.replace(base, of=of, **fields)


def task_of(dataset: Dataset, **parts) -> Task:
    """The data set with its last two items held out; parts of the split may be replaced."""
    split = leave_one_out(dataset.interactions)
    return Task(dataset, dataclasses.replace(split, **parts))


def key_of(name, dataset, settings=None, seed=0, **parts) -> str:
    """Cache key of a teacher."""
    return registry.identity(
        name, task_of(dataset, **parts), settings or TeacherSettings(), seed
    ).key


def build(name, dataset, settings, folder: Path, log=lambda event: None):
    """An untuned teacher."""
    return registry.kind(name).build(task_of(dataset), settings, Cache(folder), log)


def tune(name, dataset, settings, folder: Path, *, seed=0, log=lambda event: None, **parts):
    """A tuned teacher and its card."""
    task = task_of(dataset, **parts)
    identity = registry.identity(name, task, settings, seed)
    return tuning.tune(identity, task, settings, Cache(folder), log)
