"""The teachers there are, and how each is built from a data set."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32

from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.errors import UserError
from teachers_torch.config import TEACHERS, EncoderConfig, TeacherConfigs
from teachers_torch.encode import TunedTeacher
from teachers_torch.encoder import SequenceEncoder
from teachers_torch.image import image_features
from teachers_torch.precomputed import PrecomputedTeacher
from teachers_torch.recformer import RecformerTeacher
from teachers_torch.recformer_start import build_model, load_start, make_reader
from teachers_torch.text import encode_texts, item_sentences
from teachers_torch.unim2rec import UniM2Rec
from teachers_torch.unisrec import UniSRec

Log = Callable[[dict[str, Any]], None]


class Recipe(NamedTuple):
    """How a tuned teacher comes about: its settings and its untuned model."""

    config: Callable[[TeacherConfigs], EncoderConfig]
    build: Callable[[Dataset, TeacherConfigs, Path, Log], SequenceEncoder]


def build(
    name: str, dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log
) -> TunedTeacher | RecformerTeacher | PrecomputedTeacher:
    """A teacher before tuning, its weights drawn from torch's global generator.

    Raises:
        UserError: there is no such teacher, or its inputs are missing or wrong.
    """
    require_known(name)
    if name == PrecomputedTeacher.name:
        return PrecomputedTeacher(configs.precomputed, dataset)
    if name == RecformerTeacher.name:
        return _build_recformer(dataset, configs, cache_dir, log)
    recipe = RECIPES[name]
    config = recipe.config(configs)
    if config.batch_size < configs.max_seq_len:
        raise UserError(
            f"--{config.prefix}batch_size: found {config.batch_size}, expected at least "
            f"--max_seq_len={configs.max_seq_len}"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = recipe.build(dataset, configs, cache_dir, log).to(device)
    return TunedTeacher(name, model, dataset.interactions, config, configs.max_seq_len)


def require_known(name: str) -> None:
    """Refuses a name that is no teacher's.

    Raises:
        UserError: listing the known ones.
    """
    if name not in TEACHERS:
        raise UserError(f"--teachers: found {name!r}, expected some of {', '.join(TEACHERS)}")


def scale_features(
    features: Float32[np.ndarray, "items features"], norm: float
) -> Float32[np.ndarray, "items features"]:
    """Scales all rows by one number, so that the mean norm of those not zero is `norm`.

    Beside features of norm 1 a fresh ID embedding (deviation 0.02) would be three times as
    long as the adapted text, and a transductive teacher would learn the IDs by heart instead
    of the texts. `norm` 0 leaves the features as they are.
    """
    norms = np.linalg.norm(features, axis=1)
    if norm == 0 or not norms.any():
        return features
    return features * np.float32(norm / norms[norms > 0].mean())


def _text_vectors(
    dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log
) -> tuple[list[str], Float32[np.ndarray, "items features"]]:
    def progress(done: int, total: int) -> None:
        log({"event": "encode_texts", "done": done, "total": total})

    sentences = item_sentences(dataset.catalogue)
    return sentences, encode_texts(sentences, configs.text, cache_dir, progress)


def _build_unisrec(
    dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log, *, transductive: bool
) -> UniSRec:
    _, vectors = _text_vectors(dataset, configs, cache_dir, log)
    vectors = scale_features(vectors, configs.unisrec.feature_norm)
    return UniSRec(configs.unisrec, vectors, configs.max_seq_len, transductive=transductive)


def _build_unim2rec(
    dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log
) -> UniM2Rec:
    images = image_features(dataset)
    sentences, vectors = _text_vectors(dataset, configs, cache_dir, log)
    has_text = np.array([bool(sentence.strip()) for sentence in sentences])
    modalities = [
        (scale_features(features, configs.unim2rec.feature_norm), available)
        for features, available in ((vectors, has_text), images)
    ]
    return UniM2Rec(configs.unim2rec, modalities, configs.max_seq_len)


def _build_recformer(
    dataset: Dataset, configs: TeacherConfigs, cache_dir: Path, log: Log
) -> RecformerTeacher:
    config = configs.recformer
    start = load_start(config, configs.max_seq_len)
    model = build_model(start, config, num_items=dataset.num_items)
    reader = make_reader(start, dataset.catalogue, config, configs.max_seq_len, cache_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return RecformerTeacher(
        model.to(device), dataset.interactions, reader, config, config.start, log
    )


RECIPES = {
    "unisrec-text": Recipe(
        lambda configs: configs.unisrec, functools.partial(_build_unisrec, transductive=False)
    ),
    "unisrec": Recipe(
        lambda configs: configs.unisrec, functools.partial(_build_unisrec, transductive=True)
    ),
    "unim2rec": Recipe(lambda configs: configs.unim2rec, _build_unim2rec),
}
