"""What a tuning starts from: a checkpoint of pre-training, ours or UniSRec's own."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from prmkd_jax.common.errors import UserError
from teachers_torch.config import EncoderConfig, TeacherConfigs
from teachers_torch.items.pixels import PixelEncoder
from teachers_torch.items.text import text_identity
from teachers_torch.recbole_file import read_recbole, require_settings
from teachers_torch.sequence.encoder import SequenceModel
from teachers_torch.sequence.official import IDS, PLM, load_weights

WEIGHTS, FACTS = "weights.safetensors", "pretraining.json"
VISION = "vision."


class Start(NamedTuple):
    """Weights to start from.

    Attributes:
        description: where they come from, for the teacher card.
        weights: the encoder's, by the model's own names.
        vision: the frozen vision encoder that was trained with them, or None.
    """

    description: str
    weights: dict[str, Tensor]
    vision: PixelEncoder | None = None


def model_facts(config: EncoderConfig, configs: TeacherConfigs) -> dict[str, Any]:
    """The settings in which a pre-training and a tuning from it must agree, by flag."""
    prefix = config.prefix
    text = "text_features" if configs.text.text_features else "text_encoder"
    return {
        f"{prefix}hidden_size": config.hidden_size,
        f"{prefix}num_layers": config.num_layers,
        f"{prefix}num_heads": config.num_heads,
        f"{prefix}inner_size": config.inner_size,
        f"{prefix}num_experts": config.num_experts,
        f"{prefix}feature_norm": config.feature_norm,
        "max_seq_len": configs.max_seq_len,
        "text_encoder": text_identity(configs.text) if text == "text_encoder" else "given files",
    }


def start_digest(path: Path) -> str:
    """SHA-256 over a checkpoint's content, wherever it lies.

    Raises:
        UserError: there is none.
    """
    digest = hashlib.sha256()
    for part in (path / WEIGHTS, path / FACTS) if path.is_dir() else (path,):
        try:
            if not part.is_file():  # a pipe would wait, a device never end
                raise OSError("no regular file")
            with part.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(
                f"--teacher_checkpoints: {part}: found no such file, expected a checkpoint folder "
                "of experiments.commands.pretrain or an official .pth file"
            ) from error
    return digest.hexdigest()


def read_start(family: str, config: EncoderConfig, configs: TeacherConfigs) -> Start | None:
    """What the teachers of a family start from; None where no checkpoint was given.

    Raises:
        UserError: the checkpoint is missing, damaged, or of other settings.
    """
    if family not in configs.checkpoints:
        return None
    path = Path(configs.checkpoints[family])
    digest = start_digest(path)
    if not path.is_dir():
        return _official_start(path, digest, family, config)
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        weights = safetensors.torch.load_file(path / WEIGHTS)
        found, teacher = facts["model"], facts["teacher"]
        names = ", ".join(domain["name"] for domain in facts["domains"])
        image_shape = facts["image_shape"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path}: found no readable checkpoint, expected one") from error
    if teacher != family:
        raise UserError(f"{path}: found a checkpoint of {teacher}, expected one of {family}")
    for flag, value in model_facts(config, configs).items():
        if found.get(flag) != value:
            raise UserError(
                f"--{flag}: found {value!r}, expected {found.get(flag)!r} as in {path / FACTS}, "
                "the checkpoint to start from"
            )
    vision = None
    if image_shape is not None:
        vision = PixelEncoder(tuple(image_shape))
        own = {k[len(VISION) :]: weights.pop(k) for k in list(weights) if k.startswith(VISION)}
        load_weights(vision, own, str(path))
    description = f"pre-trained on {names}, {facts['epochs']} epochs (sha256 {digest[:16]})"
    return Start(description, weights, vision)


def begin_from(model: SequenceModel, start: Start, *, freeze: bool) -> None:
    """Copies a start's weights into a model that is to be tuned.

    IDs are fresh: they are the target's. So is the image adaptor where no pre-training domain
    had pictures.

    Args:
        model: the model.
        start: the weights.
        freeze: leave positions and Transformer as they are; adaptors, fusion, the input
            LayerNorm and IDs are trained, as in UniSRec's official fine-tuning.

    Raises:
        UserError: keys are missing, surplus or of another shape; all of them are listed.
    """
    images = "adaptors.1."
    fresh = [IDS] + ([] if any(key.startswith(images) for key in start.weights) else [images])
    load_weights(model, start.weights, start.description, fresh=tuple(fresh))
    if freeze:
        model.position_embedding.requires_grad_(False)
        model.trm_encoder.requires_grad_(False)


def _official_start(path: Path, digest: str, family: str, config: EncoderConfig) -> Start:
    if family != "unisrec":
        raise UserError(
            f"--teacher_checkpoints: {family}={path}: found a file, expected a checkpoint folder "
            "(official files there are of unisrec only)"
        )
    if config.feature_norm:
        raise UserError(
            f"--{config.prefix}feature_norm: found {config.feature_norm:g}, expected 0: official "
            "checkpoints read text vectors as they are"
        )
    checkpoint = read_recbole(path)
    expected: dict[str, tuple[int | float | str, str]] = {
        "n_heads": (config.num_heads, f"--{config.prefix}num_heads"),
        "temperature": (config.temperature, f"--{config.prefix}temperature"),
        "hidden_act": ("gelu", ""),
        "layer_norm_eps": (1e-12, ""),
    }
    require_settings(checkpoint, expected, str(path))
    # A fine-tuned file's tables are of its own items.
    weights = {k: v for k, v in checkpoint.weights.items() if k not in (PLM, IDS)}
    return Start(f"official {path.name} (sha256 {digest[:16]})", weights)
