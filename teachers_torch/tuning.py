"""What a teacher is, how one is tuned and measured, and what makes two of them the same."""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int

from prmkd_jax.common.plugins import own_identity
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.splits import Split, require_parts, split_digest
from teachers_torch.config import OWN_GROUP, TeacherConfigs
from teachers_torch.given.precomputed import PrecomputedTeacher, content_digest
from teachers_torch.items.image import files_digest
from teachers_torch.items.inputs import Log
from teachers_torch.items.text import encoder_identity, text_identity
from teachers_torch.items.text_files import features_digest
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.recformer.start import start_identity
from teachers_torch.recformer.tune import tune_recformer
from teachers_torch.registry import RECIPES, build, require_known
from teachers_torch.sequence.start import start_digest
from teachers_torch.sequence.teacher import TunedTeacher, rank_all
from teachers_torch.sequence.tune import Tuning, tune_model

# Part of every cache key: raise it when the same configuration gives other vectors.
ENCODER_VERSION = 3


class Teacher(Protocol):
    """A frozen recommender: one vector an instance, one an item.

    Its training logit is `score_scale` · instance vector · item vector.
    """

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        ...

    @property
    def score_scale(self) -> float:
        """What makes a dot product of its vectors its training logit."""
        ...

    @property
    def num_parameters(self) -> int:
        """Trained parameters; 0 where nothing is known of the model."""
        ...

    @property
    def table_bytes(self) -> int:
        """Bytes of what it holds for each item to be served: features and ID table."""
        ...

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """Vectors of instances, by the CSR offset of their targets."""
        ...

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """Vectors of all items, by item id."""
        ...


@dataclasses.dataclass(frozen=True)
class TeacherCard:
    """What is to be known of a tuned teacher; `dataclasses.asdict` of it is json.

    Attributes:
        name: the teacher's name.
        dataset: the data set's name.
        data_fingerprint: hash of the data.
        start: what the tuning started from.
        seed: seed of the tuning.
        settings: its configuration.
        validation: metrics over all validation users, all items ranked.
        test: the same over all test users, measured once, after the tuning.
        seconds: wall-clock time of tuning and evaluation, without encoding the texts.
        num_parameters: trained parameters.
        epochs: epochs run.
        best_epoch: the epoch whose weights were kept.
        table_bytes: bytes held for the items, see `Teacher`.
        encode_seconds: wall-clock time of encoding all instances and items; 0 before that.
        tied_items: items whose vector is another item's as well, which it can't tell apart; 0
            before they are encoded.
    """

    name: str
    dataset: str
    data_fingerprint: str
    start: str
    seed: int
    settings: dict[str, Any]
    validation: dict[str, float]
    test: dict[str, float]
    seconds: float
    num_parameters: int
    epochs: int
    best_epoch: int
    table_bytes: int
    encode_seconds: float = 0.0
    tied_items: int = 0


def settings(name: str, dataset: Dataset, configs: TeacherConfigs) -> dict[str, Any]:
    """The settings that this teacher's vectors depend on, and no others; json values."""
    if name == PrecomputedTeacher.name:
        config = configs.precomputed
        # Where the arrays lie doesn't matter, what is in them does.
        content = content_digest(config)
        return {"content": content, "scale": config.scale, "normalize": config.normalize}
    if name == RecformerTeacher.name:
        return {
            **dataclasses.asdict(configs.recformer),
            **start_identity(configs.recformer),
            "max_seq_len": configs.max_seq_len,
        }
    if name not in RECIPES:
        return dict(own_identity(OWN_GROUP, name))
    recipe, text = RECIPES[name], configs.text
    found = {
        **dataclasses.asdict(recipe.config(configs)),
        "max_seq_len": configs.max_seq_len,
        "text_encoder": features_digest(text, dataset.name)
        if text.text_features
        else text_identity(text),
    }
    paths = dataset.catalogue.image_paths
    if name == "unim2rec" and paths is not None:
        found["image_encoder"] = encoder_identity(configs.image.image_encoder)
        found["images"] = files_digest(sorted(set(paths) - {""}))
    if recipe.family in configs.checkpoints:
        found["start"] = start_digest(Path(configs.checkpoints[recipe.family]))
    return found


def teacher_identity(
    name: str, dataset: Dataset, configs: TeacherConfigs, seed: int
) -> dict[str, Any]:
    """What a teacher's vectors depend on beside data and split; json values.

    Raises:
        UserError: there is no such teacher, or its files are missing.
    """
    require_known(name)
    return {
        "encoder_version": ENCODER_VERSION,
        "settings": settings(name, dataset, configs),
        "seed": seed if name in (*RECIPES, RecformerTeacher.name) else None,
    }


def fingerprint(
    name: str, dataset: Dataset, split: Split, configs: TeacherConfigs, seed: int
) -> str:
    """Cache key of a tuned teacher and its vectors: 16 hex digits, the same everywhere.

    Hashes the data, the split, the settings that matter, the seed and `ENCODER_VERSION`.

    Raises:
        UserError: there is no such teacher, or its files are missing.
    """
    content = {
        **teacher_identity(name, dataset, configs, seed),
        "teacher": name,
        "data": dataset.fingerprint,
        "split": split_digest(split),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def tune(
    name: str,
    dataset: Dataset,
    split: Split,
    configs: TeacherConfigs,
    *,
    cache_dir: Path,
    seed: int,
    log: Log,
) -> tuple[Teacher, TeacherCard]:
    """Builds a teacher, tunes it on the training part and measures it.

    The same seed gives the same teacher on a CPU. torch's global random state is left as
    it was.

    Args:
        name: one of `TEACHERS`.
        dataset: histories and catalogue.
        split: trained on `train`, selected on `validation`, reported on `test`.
        configs: all settings.
        cache_dir: where encoded texts and pictures are kept, and the state of the tuning after
            each epoch (`tuning_state`): one that was killed goes on from it.
        seed: seed of weights, batches, dropout and noise.
        log: told of progress as dicts with an `event`: `encode_texts`, `encode_images` and
            `encode` (`done`, `total`), `step` and `epoch` (see `tune_model`).

    Raises:
        UserError: there is no such teacher, or its inputs are missing or wrong.
    """
    require_known(name)
    require_parts(dataset.name, split)

    def tell(event: dict[str, Any]) -> None:
        log({"teacher": name, **event})

    with seeded(seed):
        teacher = build(name, dataset, configs, cache_dir, tell)

        def validate() -> dict[str, float]:
            return evaluate(teacher, dataset, split.validation)

        key = fingerprint(name, dataset, split, configs, seed)
        state_file = tuning_state(cache_dir, name, key)
        if isinstance(teacher, TunedTeacher):
            batches = TrainingBatches(
                dataset.interactions, split, configs.max_seq_len, teacher.config.batch_size, seed
            )
            tuning = tune_model(teacher.model, batches, validate, teacher.config, tell, state_file)
        elif isinstance(teacher, RecformerTeacher):
            tuning = tune_recformer(teacher, split, validate, seed, state_file)
        else:
            tuning = Tuning(epochs=0, best_epoch=0, validation=validate())
        started = time.perf_counter()
        test = evaluate(teacher, dataset, split.test)
    card = TeacherCard(
        name=name,
        dataset=dataset.name,
        data_fingerprint=dataset.fingerprint,
        start=teacher.start,
        seed=seed,
        settings=settings(name, dataset, configs),
        validation=tuning.validation,
        test=test,
        seconds=tuning.seconds + time.perf_counter() - started,
        num_parameters=teacher.num_parameters,
        epochs=tuning.epochs,
        best_epoch=tuning.best_epoch,
        table_bytes=teacher.table_bytes,
    )
    return teacher, card


def tuning_state(cache_dir: Path, name: str, key: str) -> Path:
    """Where a tuning under way keeps its state; whoever has saved the teacher deletes it."""
    return cache_dir / "tuning" / f"{name}-{key}.pt"


def evaluate(
    teacher: Teacher, dataset: Dataset, instance_ids: Int[np.ndarray, " instances"]
) -> dict[str, float]:
    """Metrics of ranking all items for these instances, no history masked."""
    users = teacher.encode_instances(instance_ids)
    return rank_all(users, teacher.encode_items(), dataset.interactions.items[instance_ids])


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators for a while and puts their state back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
