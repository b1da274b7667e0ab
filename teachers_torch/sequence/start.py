"""What weights begin from: a checkpoint of pre-training, ours or UniSRec's own."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from prmkd_jax.common.digests import file_digest, files_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.sealed import read_sealed_json
from teachers_torch.config import EncoderConfig
from teachers_torch.items.pixels import PixelEncoder
from teachers_torch.items.text import text_identity
from teachers_torch.recbole_file import read_recbole, require_settings
from teachers_torch.sequence.encoder import SequenceModel
from teachers_torch.sequence.official import IDS, PLM, load_weights
from teachers_torch.settings import TeacherSettings

WEIGHTS, FACTS = "weights.safetensors", "pretraining.json"
VISION = "vision."
WEIGHTS_DIGEST = "weights_sha256"


class SequenceStart(NamedTuple):
    """Weights to begin from.

    Attributes:
        description: the origin of the weights in words, for the teacher card.
        weights: the encoder's state dict.
        vision: the frozen vision encoder that was trained with them, or None.
        image_encoders: identities of the encoders whose vectors of image files they have read.
    """

    description: str
    weights: dict[str, Tensor]
    vision: PixelEncoder | None = None
    image_encoders: frozenset[str] = frozenset()


SHARED = ("hidden_size", "num_layers", "num_heads", "inner_size", "num_experts", "feature_norm")


class PretrainDomain(TypedDict):
    """A data set of a pre-training; `image_encoder` where its image files were read."""

    name: str
    fingerprint: str
    users: int
    items: int
    interactions: int
    image_encoder: NotRequired[str]


class PretrainFacts(TypedDict):
    """What is known of a pre-training, as JSON has it.

    `image_shape` is None where images are not read as such. `start`, what the weights began from,
    is missing where they were random. Epochs, losses and seconds are those of the epochs done, and
    missing before the first.
    """

    teacher: str
    domains: Sequence[PretrainDomain]
    model: Mapping[str, object]
    settings: Mapping[str, object]
    pretraining: Mapping[str, Any]
    seed: int
    image_shape: Any
    start: NotRequired[str]
    epochs: NotRequired[int]
    losses: NotRequired[list[float]]
    seconds: NotRequired[float]


def model_facts(family: str, config: EncoderConfig, settings: TeacherSettings) -> dict[str, object]:
    """The settings in which a pre-training and a tuning from it must agree."""
    text = settings.text
    return {
        **{f"{family}_{field}": getattr(config, field) for field in SHARED},
        "max_seq_len": settings.max_seq_len,
        "text_encoder": "given files" if text.text_features else text_identity(text),
    }


def sequence_start_digest(path: Path) -> str:
    """SHA-256 over a checkpoint's content; its place doesn't matter.

    Raises:
        UserError: there is none.
    """
    parts = (path / WEIGHTS, path / FACTS) if path.is_dir() else (path,)
    for part in parts:
        if not (part.is_file() and os.access(part, os.R_OK)):  # a pipe would wait for ever
            raise UserError(
                f"--init: {part}: no such file, expected a folder made by pre-training or an "
                "official .pth file"
            )
    return files_digest(parts)


def read_sequence_start(
    family: str, config: EncoderConfig, settings: TeacherSettings
) -> SequenceStart | None:
    """Weights of a family, from the path in `settings.init`; None if there is none.

    Raises:
        UserError: the checkpoint is missing, damaged, or of other settings.
    """
    if family not in settings.init:
        return None
    path = Path(settings.init[family])
    digest = sequence_start_digest(path)
    if not path.is_dir():
        return _official_start(path, digest, family, config)
    try:
        facts = read_facts(path)
        weights = safetensors.torch.load_file(path / WEIGHTS)
        found, teacher = facts["model"], facts["teacher"]
        names = ", ".join(domain["name"] for domain in facts["domains"])
        image_shape = facts["image_shape"]
        encoders = {
            domain["image_encoder"] for domain in facts["domains"] if "image_encoder" in domain
        }
        if "epochs" not in facts:
            raise KeyError("epochs")
        if not isinstance(found, dict) or not _is_image_shape(image_shape):
            raise ValueError(f"model {found!r}, image_shape {image_shape!r}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            f"{path}: missing or damaged, expected a checkpoint of pre-training"
        ) from error
    if teacher != family:
        raise UserError(f"{path}: found a checkpoint of {teacher}, expected one of {family}")
    for field, value in model_facts(family, config, settings).items():
        if found.get(field) != value:
            flag = field.replace(f"{family}_", EncoderConfig.prefix)
            raise UserError(
                f"--{flag}: found {value!r}, expected {found.get(field)!r} as in {path / FACTS}, "
                "which weights begin from"
            )
    vision = None
    if image_shape is not None:
        vision = PixelEncoder(tuple(image_shape))
        own = {k[len(VISION) :]: weights.pop(k) for k in list(weights) if k.startswith(VISION)}
        load_weights(vision, own, str(path))
    description = f"pre-trained on {names}, {facts['epochs']} epochs (sha256 {digest[:16]})"
    return SequenceStart(description, weights, vision, frozenset(encoders))


def require_image_encoder(
    start: SequenceStart, encoders: Iterable[str | None], settings: TeacherSettings
) -> None:
    """Checks that image files are read by the encoder whose vectors the weights know.

    Args:
        start: the weights.
        encoders: identity of the encoder that reads each data set's image files, if one does.
        settings: the teachers' settings.

    Raises:
        UserError: it is another one, whose vectors mean something else.
    """
    for found in encoders:
        if found is not None and start.image_encoders and start.image_encoders != {found}:
            expected = " and ".join(sorted(start.image_encoders))
            raise UserError(
                f"--image_encoder: found {settings.image.image_encoder!r} ({found}), expected the "
                f"one that weights begin from: {expected}"
            )


def _is_image_shape(shape: object) -> bool:
    """Whether it is none, or rows, columns and colours."""
    if shape is None:
        return True
    sizes = shape if isinstance(shape, list | tuple) else ()
    return len(sizes) == 3 and all(type(size) is int and 0 < size <= 2**16 for size in sizes)


def read_facts(folder: Path) -> PretrainFacts:
    """The facts of a finished pre-training, after a look at their digest and the weights'.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        facts = read_sealed_json(folder / FACTS)
        if file_digest(folder / WEIGHTS) != facts.pop(WEIGHTS_DIGEST):
            raise ValueError(f"{WEIGHTS} differs from its digest")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: missing or damaged, expected a checkpoint of pre-training"
        ) from error
    return cast(PretrainFacts, facts)


def begin_from(model: SequenceModel, start: SequenceStart, *, freeze: bool) -> None:
    """Copies weights into a model that is to be tuned, or pre-trained further.

    IDs are fresh: they are the target's. So is the image adaptor where no pre-training domain
    had images. A vision encoder is made with the weights it has.

    Args:
        model: receives the weights.
        start: the weights.
        freeze: leave positions and Transformer as they are; adaptors, fusion, the input
            LayerNorm and IDs are trained, as in UniSRec's official fine-tuning.

    Raises:
        UserError: keys are missing, surplus or of another shape; all of them are listed.
    """
    images = "adaptors.1."
    fresh = [IDS, VISION] + (
        [] if any(key.startswith(images) for key in start.weights) else [images]
    )
    load_weights(model, start.weights, start.description, fresh=tuple(fresh))
    if freeze:
        model.position_embedding.requires_grad_(False)
        model.trm_encoder.requires_grad_(False)


def _official_start(path: Path, digest: str, family: str, config: EncoderConfig) -> SequenceStart:
    if family != "unisrec":
        raise UserError(
            f"--init: {family}={path}: found a file, expected a folder made by pre-training "
            "(only unisrec has official files)"
        )
    if config.feature_norm:
        raise UserError(
            f"--{EncoderConfig.prefix}feature_norm: found {config.feature_norm:g}, expected 0: "
            "official checkpoints read text vectors as they are"
        )
    checkpoint = read_recbole(path)
    expected: dict[str, tuple[int | float | str, str]] = {
        "n_heads": (config.num_heads, f"--{EncoderConfig.prefix}num_heads"),
        "temperature": (config.temperature, f"--{EncoderConfig.prefix}temperature"),
        "hidden_act": ("gelu", ""),
        "layer_norm_eps": (1e-12, ""),
    }
    require_settings(checkpoint, expected, str(path))
    # A fine-tuned file's tables are of its own items.
    weights = {k: v for k, v in checkpoint.weights.items() if k not in (PLM, IDS)}
    return SequenceStart(f"official {path.name} (sha256 {digest[:16]})", weights)
