"""The kinds of teachers that read item vectors: UniSRec in two forms and UniM²Rec."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.batches import TrainingBatches
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.task import Task
from teachers_torch.config import (
    EncoderConfig,
    ImageConfig,
    PretrainConfig,
    TeacherSettings,
    TextConfig,
    UniM2RecConfig,
    UniM2RecOptions,
    UniSRecConfig,
    UniSRecOptions,
)
from teachers_torch.items.image import feature_width, image_features, images_digest
from teachers_torch.items.inputs import (
    Modality,
    image_inputs,
    mask_modality,
    pixel_inputs,
    text_inputs,
)
from teachers_torch.items.pixels import PixelEncoder, encode_pixels
from teachers_torch.items.text import (
    encoder_identity,
    item_sentences,
    text_identity,
    vector_width,
)
from teachers_torch.items.text_files import features_digest, read_text_features
from teachers_torch.sequence.encoder import SequenceModel
from teachers_torch.sequence.pretrain import pretrain
from teachers_torch.sequence.start import begin_from, read_start, start_digest
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.sequence.tune import tune_model
from teachers_torch.sequence.unim2rec import UniM2Rec
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.states import best_device, seeded
from teachers_torch.teacher import Log, Pretraining, Tuning


class Inputs(NamedTuple):
    """How a teacher reads items.

    Attributes:
        read: features of all items, raw pixels encoded by the vision encoder if one is given.
        widths: their widths, without encoding the items; missing inputs are an error.
        identity: what they depend on besides the texts; JSON values.
    """

    read: Callable[[Dataset, TeacherSettings, PixelEncoder | None, Cache, Log], list[Modality]]
    widths: Callable[[Dataset, TeacherSettings, PixelEncoder | None, Cache], list[int]]
    identity: Callable[[Dataset, TeacherSettings], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class SequenceKind:
    """A teacher that is a `SequenceModel`; see `teachers_torch.teacher.Kind`.

    Attributes:
        config: its configuration class.
        inputs: how it reads items.
        model: the untuned model over these inputs.
    """

    name: str
    label: str
    init: str
    reads: tuple[type, ...]
    config: type[UniSRecConfig] | type[UniM2RecConfig]
    inputs: Inputs
    model: Callable[[TeacherSettings, Sequence[Modality]], SequenceModel]
    seeded: bool = True
    reads_tokens: bool = False

    @property
    def pretraining(self) -> Pretraining:
        """Pre-training of the family that `init` names."""
        return Pretraining(PretrainConfig, functools.partial(pretrain, self.init))

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Checks batch size, initial weights and the item inputs, and that they fit together.

        A text or image encoder that no cached vectors are from is loaded and reads one item.

        Raises:
            UserError: see `Kind.check`.
        """
        config = self._config(settings)
        start = read_start(self.init, config, settings)
        vision = None if start is None else start.vision
        widths = self.inputs.widths(task.dataset, settings, vision, cache)
        if start is not None:
            # Two made-up items will do: no weight that is read depends on their number.
            items = [Modality(np.zeros((2, w), np.float32), np.ones(2, bool)) for w in widths]
            with seeded(0):
                begin_from(self.model(settings, items), start, freeze=config.freeze_encoder)

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, Any]:
        """Configuration, text and image encoders or files, initial weights."""
        dataset = task.dataset
        text = settings.text
        found = {
            **dataclasses.asdict(settings.get(self.config)),
            "max_seq_len": settings.max_seq_len,
            "text_encoder": features_digest(text, dataset.name)
            if text.text_features
            else text_identity(text),
            **self.inputs.identity(dataset, settings),
        }
        if self.init in settings.init:
            found["start"] = start_digest(Path(settings.init[self.init]))
        return found

    def build(self, task: Task, settings: TeacherSettings, cache: Cache, log: Log) -> TunedTeacher:
        """The model over the items' features, with random or initial weights."""
        config = self._config(settings)
        start = read_start(self.init, config, settings)
        vision = None if start is None else start.vision
        inputs = self.inputs.read(task.dataset, settings, vision, cache, log)
        model = self.model(settings, inputs)
        if start is not None:
            begin_from(model, start, freeze=config.freeze_encoder)
        return TunedTeacher(
            self.name,
            model.to(best_device()),
            task.dataset.interactions,
            config,
            settings.max_seq_len,
            "random" if start is None else start.description,
        )

    def tune(
        self,
        teacher: TunedTeacher,
        task: Task,
        validate: Callable[[], dict[str, float]],
        seed: int,
        state_file: Path,
        log: Log,
    ) -> Tuning:
        """Adam on packed batches, see `tune_model`."""
        batches = TrainingBatches(
            task.dataset.interactions,
            task.split,
            teacher.max_seq_len,
            teacher.config.batch_size,
            seed,
        )
        return tune_model(teacher.model, batches, validate, teacher.config, log, state_file)

    def module(self, teacher: TunedTeacher) -> nn.Module:
        """The model; its features are buffers that are not saved."""
        return teacher.model

    def _config(self, settings: TeacherSettings) -> EncoderConfig:
        config = settings.get(self.config)
        if config.batch_size < settings.max_seq_len:
            raise UserError(
                f"--{EncoderConfig.prefix}batch_size: found {config.batch_size}, expected at least "
                f"--max_seq_len={settings.max_seq_len}"
            )
        return config


def _read_texts(
    dataset: Dataset, settings: TeacherSettings, _: PixelEncoder | None, cache: Cache, log: Log
) -> list[Modality]:
    norm = settings.get(UniSRecConfig).feature_norm
    return [text_inputs(dataset, settings.text, norm, cache, log)]


def _text_widths(
    dataset: Dataset, settings: TeacherSettings, _: PixelEncoder | None, cache: Cache
) -> list[int]:
    if settings.text.text_features:
        return [read_text_features(settings.text, dataset).shape[1]]
    return [vector_width(item_sentences(dataset.catalogue), settings.text, cache)]


def _read_texts_and_images(
    dataset: Dataset,
    settings: TeacherSettings,
    vision: PixelEncoder | None,
    cache: Cache,
    log: Log,
) -> list[Modality]:
    config = settings.get(UniM2RecConfig)
    norm = config.feature_norm
    if vision is None:
        images = image_inputs(dataset, settings.image, norm, cache, log)
    else:
        pixels, available = pixel_inputs(dataset)
        images = Modality(encode_pixels(vision, pixels), available)
    images = mask_modality(images, config.hide_images)
    return [text_inputs(dataset, settings.text, norm, cache, log), images]


def _text_and_image_widths(
    dataset: Dataset, settings: TeacherSettings, vision: PixelEncoder | None, cache: Cache
) -> list[int]:
    catalogue = dataset.catalogue
    if catalogue.image_features is None and not catalogue.image_paths:
        raise UserError(
            f"data set {dataset.name}: found no images, expected some for unim2rec, or "
            "--teachers without it"
        )
    if vision is not None:
        pixel_inputs(dataset)
        images = vision.width
    elif catalogue.image_features is None:
        images = feature_width(dataset, settings.image, cache)
    else:
        images = image_features(dataset)[0].shape[1]
    return [*_text_widths(dataset, settings, None, cache), images]


def _image_identity(dataset: Dataset, settings: TeacherSettings) -> dict[str, Any]:
    if dataset.catalogue.image_paths is None:
        return {}  # image features are part of the data's own fingerprint
    encoder = encoder_identity(settings.image.image_encoder)
    return {"image_encoder": encoder, "images": images_digest(dataset)}


def _unisrec(
    settings: TeacherSettings, inputs: Sequence[Modality], *, transductive: bool
) -> UniSRec:
    config = settings.get(UniSRecConfig)
    vectors = inputs[0].features
    return UniSRec(config, vectors, settings.max_seq_len, transductive=transductive)


def _unim2rec(settings: TeacherSettings, inputs: Sequence[Modality]) -> UniM2Rec:
    config = settings.get(UniM2RecConfig)
    return UniM2Rec(config, inputs, settings.max_seq_len, has_ids=config.id_embedding)


TEXTS = Inputs(_read_texts, _text_widths, lambda dataset, settings: {})
TEXTS_AND_IMAGES = Inputs(_read_texts_and_images, _text_and_image_widths, _image_identity)

UNISREC_TEXT = SequenceKind(
    "unisrec-text",
    "UniSRec text",
    "unisrec",
    (TextConfig, EncoderConfig, UniSRecOptions),
    UniSRecConfig,
    TEXTS,
    functools.partial(_unisrec, transductive=False),
)
UNISREC = dataclasses.replace(
    UNISREC_TEXT,
    name="unisrec",
    label="UniSRec text+ID",
    model=functools.partial(_unisrec, transductive=True),
)
UNIM2REC = SequenceKind(
    "unim2rec",
    "UniM²Rec",
    "unim2rec",
    (TextConfig, ImageConfig, EncoderConfig, UniM2RecOptions),
    UniM2RecConfig,
    TEXTS_AND_IMAGES,
    _unim2rec,
)
