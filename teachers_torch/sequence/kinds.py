"""The kinds of teachers that read item vectors: UniSRec in two forms and UniM²Rec."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

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
    TextConfig,
    UniM2RecConfig,
    UniM2RecOptions,
    UniSRecConfig,
    UniSRecOptions,
)
from teachers_torch.items.inputs import Modality, made_up
from teachers_torch.sequence.encoder import SequenceModel
from teachers_torch.sequence.item_inputs import TEXTS, TEXTS_AND_IMAGES, ItemInputs
from teachers_torch.sequence.pretrain import pretrain, written
from teachers_torch.sequence.pretrain_task import FAMILIES, FREE, check_start
from teachers_torch.sequence.start import (
    SequenceStart,
    begin_from,
    read_sequence_start,
    require_image_encoder,
    sequence_start_digest,
)
from teachers_torch.sequence.teacher import TunedTeacher
from teachers_torch.sequence.tune import tune_model
from teachers_torch.sequence.unim2rec import UniM2Rec
from teachers_torch.sequence.unisrec import UniSRec
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import best_device, seeded
from teachers_torch.teacher import Log, Pretraining, Tuning


@dataclasses.dataclass(frozen=True)
class SequenceKind:
    """A teacher that is a `SequenceModel`; see `teachers_torch.teacher.Kind`.

    Attributes:
        config: the configuration class of the teacher.
        inputs: the item features that the teacher reads.
        model: the untuned model over these inputs.
    """

    name: str
    label: str
    init: str
    reads: tuple[type, ...]
    config: type[UniSRecConfig] | type[UniM2RecConfig]
    inputs: ItemInputs
    model: Callable[[TeacherSettings, Sequence[Modality]], SequenceModel]
    seeded: bool = True
    reads_tokens: bool = False

    @property
    def pretraining(self) -> Pretraining:
        """Pre-training of the family that `init` names."""
        return Pretraining(
            PretrainConfig,
            functools.partial(pretrain, self.init),
            self._check_domains,
            written,
            FREE,
            FAMILIES[self.init].more_read,
        )

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Checks batch size, initial weights and the item inputs, and that they fit together.

        A text or image encoder that no cached vectors are from is loaded and reads one item.

        Raises:
            UserError: see `Kind.check`.
        """
        config = self._config(settings)
        start = self._start(task.dataset, settings)
        vision = None if start is None else start.vision
        widths = self.inputs.widths(task.dataset, settings, vision, cache)
        if start is not None:
            items = [made_up(width) for width in widths]
            with seeded(0):
                begin_from(self.model(settings, items), start, freeze=config.freeze_encoder)

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """Configuration, text and image encoders or files, initial weights."""
        found = {
            **dataclasses.asdict(settings.get(self.config)),
            "max_seq_len": settings.max_seq_len,
            **self.inputs.identity(task.dataset, settings),
        }
        if self.init in settings.init:
            found["start"] = sequence_start_digest(Path(settings.init[self.init]))
        return found

    def build(self, task: Task, settings: TeacherSettings, cache: Cache, log: Log) -> TunedTeacher:
        """The model over the items' features, with random or initial weights."""
        config = self._config(settings)
        start = self._start(task.dataset, settings)
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
        batches = TrainingBatches(task, teacher.max_seq_len, teacher.config.batch_size, seed)
        return tune_model(teacher.model, batches, validate, teacher.config, log, state_file)

    def module(self, teacher: TunedTeacher) -> nn.Module:
        """The model; its features are buffers that are not saved."""
        return teacher.model

    def _check_domains(
        self, domains: Sequence[Dataset], settings: TeacherSettings, cache: Cache
    ) -> None:
        """Checks texts, images where a domain has them and the teacher reads them, the start."""
        widths = []
        for domain in domains:
            images = domain.catalogue.image_features is not None or domain.catalogue.image_paths
            inputs = self.inputs if images else TEXTS
            widths.append(inputs.widths(domain, settings, None, cache))
        check_start(self.init, domains, settings, widths)

    def _start(self, dataset: Dataset, settings: TeacherSettings) -> SequenceStart | None:
        start = read_sequence_start(self.init, self._config(settings), settings)
        if start is not None:
            encoder = FAMILIES[self.init].image_encoder(dataset, settings)
            require_image_encoder(start, [encoder], settings)
        return start

    def _config(self, settings: TeacherSettings) -> EncoderConfig:
        config = settings.get(self.config)
        if config.batch_size < settings.max_seq_len:
            raise UserError(
                f"--{EncoderConfig.prefix}batch_size: found {config.batch_size}, expected at least "
                f"--max_seq_len={settings.max_seq_len}"
            )
        return config


def _unisrec(
    settings: TeacherSettings, inputs: Sequence[Modality], *, transductive: bool
) -> UniSRec:
    config = settings.get(UniSRecConfig)
    vectors = inputs[0].features
    return UniSRec(config, vectors, settings.max_seq_len, transductive=transductive)


def _unim2rec(settings: TeacherSettings, inputs: Sequence[Modality]) -> UniM2Rec:
    config = settings.get(UniM2RecConfig)
    return UniM2Rec(config, inputs, settings.max_seq_len, has_ids=config.id_embedding)


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
