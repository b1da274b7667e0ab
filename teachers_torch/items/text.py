"""Item sentences and their vectors from a frozen text encoder, cached."""

import functools
import hashlib
import html
import itertools
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.parts import Make
from prmkd_jax.data.dataset import Catalogue, category_names
from teachers_torch.cluster import make_parts
from teachers_torch.config import TextConfig
from teachers_torch.items.text_encoder import (
    BUNDLED_ENCODER,
    BUNDLED_SHA256,
    BUNDLED_WIDTH,
    bundled_folder,
    load_encoder,
)

Progress = Callable[[int, int], None]

SENTENCE_FIELDS = ("title", "categories", "brand")
LONGEST_FIELD = 2000
MOST_FILES = 10_000  # of an encoder's folder
CHUNK = 1024  # sentences between two progress reports


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
    """Content hash of an encoder's files; of a hub encoder its name.

    Raises:
        UserError: a folder has more files than an encoder, or a pipe or a device among them.
    """
    if encoder == BUNDLED_ENCODER:
        return BUNDLED_SHA256
    if not Path(encoder).is_dir():
        return f"hub:{encoder}"
    files = list(itertools.islice(Path(encoder).rglob("*"), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise UserError(
            f"found {encoder!r}, a folder of more than {MOST_FILES:,} files, expected an encoder's"
        )
    special = sorted(p for p in files if p.exists() and not p.is_file() and not p.is_dir())
    if special:  # whoever reads it would wait for ever
        raise UserError(f"{special[0]}: found a pipe or a device, expected an encoder's files")
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
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
        cache: the cache; the vectors are kept in its room `texts`.
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
        ValueError: there are no sentences.
    """
    name = _entry(sentences, config)
    if cache.has("texts", name):
        return np.load(cache.room("texts") / name, mmap_mode="r").shape[1]
    if config.text_encoder == BUNDLED_ENCODER and config.text_pooling == "model":
        bundled_folder()
        return BUNDLED_WIDTH
    if not sentences:
        raise ValueError("no sentences to encode")
    return _sentence_encoder(sentences[:1], config)(0, 1).shape[1]


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
    recipe = functools.partial(_sentence_encoder, distinct, config)
    vectors = make_parts(parts, len(distinct), CHUNK, recipe, progress).array()
    return vectors[[place[sentence] for sentence in sentences]]


def _sentence_encoder(sentences: Sequence[str], config: TextConfig) -> Make:
    """Loads the encoder; returns what makes the vectors of some of the sentences."""
    model = load_encoder(config.text_encoder, config.text_pooling)

    def encode(start: int, stop: int) -> np.ndarray:
        return model.encode(sentences[start:stop], config.text_batch_size)

    return encode
