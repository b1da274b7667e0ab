"""The kind of the teacher `recformer`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from torch import nn

from prmkd_jax.common.cache import Cache
from prmkd_jax.data.task import Task
from teachers_torch.config import RecformerConfig, RecformerPretrainConfig
from teachers_torch.recformer.model import RecformerTeacher
from teachers_torch.recformer.pretrain import check_pretraining, pretrain, written
from teachers_torch.recformer.start import (
    build_model,
    configured,
    load_start,
    make_reader,
    start_identity,
)
from teachers_torch.recformer.tokens import attributes
from teachers_torch.recformer.tune import tune_recformer
from teachers_torch.settings import TeacherSettings
from teachers_torch.states import best_device, seeded
from teachers_torch.teacher import Log, Pretraining, Tuning


class RecformerKind:
    """The kind of `recformer`; see `teachers_torch.teacher.Kind`."""

    name = RecformerTeacher.name
    label = "Recformer"
    init = RecformerTeacher.name
    reads = (RecformerConfig,)
    seeded = True
    reads_tokens = True
    pretraining = Pretraining(RecformerPretrainConfig, pretrain, check_pretraining, written)

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Checks that there are texts, and loads initial weights and tokenizer."""
        attributes(task.dataset.catalogue)
        config = configured(settings)
        with seeded(0):
            build_model(load_start(config, settings.max_seq_len), config)

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """Configuration, and the content of initial weights and tokenizer."""
        config = configured(settings)
        found = dataclasses.asdict(config)
        # The content's fields keep the names they had, so that cached teachers stay valid.
        del found["init"]
        return {
            **found,
            "decay_epochs": config.last_epoch,
            **start_identity(config),
            "max_seq_len": settings.max_seq_len,
        }

    def build(
        self, task: Task, settings: TeacherSettings, cache: Cache, log: Log
    ) -> RecformerTeacher:
        """The model with an item table, and the catalogue's tokens."""
        config = configured(settings)
        dataset = task.dataset
        start = load_start(config, settings.max_seq_len)
        model = build_model(start, config, num_items=dataset.num_items)
        reader = make_reader(start, dataset.catalogue, config, settings.max_seq_len, cache)
        return RecformerTeacher(
            model.to(best_device()), dataset.interactions, reader, config, config.init, log
        )

    def tune(
        self,
        teacher: RecformerTeacher,
        task: Task,
        validate: Callable[[], dict[str, float]],
        seed: int,
        state_file: Path,
        log: Log,
    ) -> Tuning:
        """Two stages, see `tune_recformer`; events go to the teacher's own log."""
        return tune_recformer(teacher, task.split, validate, seed, state_file)

    def module(self, teacher: RecformerTeacher) -> nn.Module:
        """The model with its item table."""
        return teacher.model


KIND = RecformerKind()
