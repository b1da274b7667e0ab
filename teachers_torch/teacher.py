"""What a teacher is, what its kind says of it, and what is known of a tuned one."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    NamedTuple,
    Protocol,
    TypeGuard,
    TypeVar,
    runtime_checkable,
)

import numpy as np
from jaxtyping import Float32, Int

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.digests import content_digest
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.task import Task
from teachers_torch.settings import TeacherSettings

if TYPE_CHECKING:  # command lines ask kinds for their names without loading torch
    from torch import nn

Log = Callable[[dict[str, Any]], None]
"""Receives progress events: dicts with an `event` and its figures."""

# Part of every cache key: raise it when the same configuration gives other vectors.
ENCODER_VERSION = 3


@runtime_checkable
class Encodes(Protocol):
    """What gives one vector an instance, one an item."""

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """Vectors of instances, by the CSR offset of their targets; zeros for one unknown."""
        ...

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """Vectors of all items, by item id."""
        ...


@runtime_checkable
class Encoder(Encodes, Protocol):
    """What encodes and says how its vectors make scores.

    Its training logit is `score_scale` · instance vector · item vector.
    """

    @property
    def name(self) -> str:
        """Name in `--teachers`."""
        ...

    @property
    def score_scale(self) -> float:
        """Factor, above 0, that makes a dot product of its vectors its training logit."""
        ...


@runtime_checkable
class Teacher(Encoder, Protocol):
    """A frozen recommender of vectors."""

    @property
    def start(self) -> str:
        """Description of what its weights began from."""
        ...

    @property
    def num_parameters(self) -> int:
        """Parameters, frozen ones too; 0 where nothing is known of the model."""
        ...

    @property
    def table_bytes(self) -> int:
        """Bytes held for each item when it is served: features and ID table."""
        ...


@runtime_checkable
class ScoreSource(Protocol):
    """A model, or lists on disk, that gives scores and no vectors."""

    @property
    def name(self) -> str:
        """Name in `--teachers`."""
        ...

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        """Training logits of items after the prefixes of instances.

        A row of nan says that the instance is unknown.
        """
        ...


@runtime_checkable
class Scorer(ScoreSource, Protocol):
    """A frozen recommender that gives scores where a `Teacher` gives vectors.

    Whoever reads a teacher asks `gives_scores` which of the two it is.
    """

    @property
    def start(self) -> str:
        """Description of what its weights began from."""
        ...

    @property
    def num_parameters(self) -> int:
        """Parameters, frozen ones too; 0 where nothing is known of the model."""
        ...

    @property
    def table_bytes(self) -> int:
        """Bytes held for the items when it is served."""
        ...

    @property
    def top(self) -> int | None:
        """Items of each instance's list, for a model that is asked once and then remembered.

        None for one that is quick enough to be asked for every batch.
        """
        ...


AnyTeacher = Teacher | Scorer


def gives_scores(teacher: AnyTeacher) -> TypeGuard[Scorer]:
    """Whether a teacher is a `Scorer`.

    `isinstance` would read all properties, of which one may encode the catalogue.
    """
    return callable(getattr(teacher, "score", None))


class Tuning(NamedTuple):
    """Result of a tuning.

    Attributes:
        epochs: epochs run; 0 where nothing is tuned.
        best_epoch: the epoch whose weights were kept.
        validation: metrics of these weights.
        seconds: wall-clock time.
        chosen: settings that validation chose, as JSON values; None where it chose none.
    """

    epochs: int
    best_epoch: int
    validation: dict[str, float]
    seconds: float = 0.0
    chosen: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Identity:
    """Everything that a teacher's vectors depend on; computed once and handed on.

    Attributes:
        name: the teacher's name.
        content: JSON values: data, split, settings, seed, `ENCODER_VERSION`.
        seed: seed of the tuning, whether or not the vectors depend on it.
    """

    name: str
    content: dict[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """Cache key: 16 hex digits, the same on every machine."""
        return content_digest(self.content)[:16]


@dataclasses.dataclass(frozen=True)
class TeacherCard:
    """Record of a tuned teacher; `dataclasses.asdict` of it is JSON.

    Attributes:
        name: the teacher's name.
        dataset: the data set's name.
        data_fingerprint: hash of the data.
        start: the origin of the weights, in words.
        seed: seed of the tuning.
        settings: the teacher's configuration.
        validation: metrics over all validation users, all items ranked.
        test: the same metrics over all test users, measured once, after the tuning.
        seconds: wall-clock time of tuning and its validations, without encoding the texts.
        num_parameters: parameters, see `Teacher`.
        epochs: epochs run.
        best_epoch: the epoch whose weights were kept.
        table_bytes: bytes held for the items, see `Teacher`.
        encode_seconds: wall-clock time of encoding all instances and items; 0 before that.
        tied_items: items whose vector is another item's as well, so that their scores tie; 0
            before they are encoded.
        chosen: settings that validation chose.
        test_seconds: wall-clock time of measuring `test`; None in cards of earlier versions, whose
            `seconds` hold it.
    """

    name: str
    dataset: str
    data_fingerprint: str
    start: str
    seed: int
    settings: dict[str, Any]
    validation: dict[str, float]
    test: dict[str, float]
    seconds: float
    num_parameters: int
    epochs: int
    best_epoch: int
    table_bytes: int
    encode_seconds: float = 0.0
    tied_items: int = 0
    chosen: dict[str, Any] = dataclasses.field(default_factory=dict)
    test_seconds: float | None = None


@runtime_checkable
class Pretrain(Protocol):
    """Pre-trains on other domains and writes a folder that `--init` reads."""

    def __call__(
        self,
        domains: Sequence[Dataset],
        settings: TeacherSettings,
        config: Any,
        folder: Path,
        *,
        cache: Cache,
        seed: int,
        log: Log,
    ) -> object:
        """Trains; the same call continues a stopped pre-training where that is supported."""
        ...


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """How a kind is pre-trained.

    Attributes:
        config: the configuration class, a row of `teachers_torch.settings.PRETRAIN_GROUPS`.
        run: the pre-training; its `config` is an instance of that class.
        check: finds what would stop it, as `Kind.check` does for a tuning.
        files: configuration → the files that a finished pre-training leaves in its folder, and
            those that may be there as well.
        free: fields of the configuration that may be others when a stopped one goes on.
        more_read: files of a domain that it depends on besides what `Kind.settings` names, as JSON
            values.
    """

    config: type
    run: Pretrain
    check: Callable[[Sequence[Dataset], TeacherSettings, Cache], None]
    files: Callable[[Any], tuple[list[str], list[str]]]
    free: tuple[str, ...] = ()
    more_read: Callable[[Dataset, TeacherSettings], dict[str, object]] = lambda _, __: {}


T = TypeVar("T", bound=AnyTeacher)


@runtime_checkable
class Kind(Protocol, Generic[T]):
    """Everything that is asked of a teacher by its name.

    One object for each name in the table of `teachers_torch.registry`; nothing else compares
    teachers' names or classes.
    """

    @property
    def name(self) -> str:
        """Name in `--teachers`."""
        ...

    @property
    def label(self) -> str:
        """Display name."""
        ...

    @property
    def init(self) -> str:
        """Name in `--init` of its initial weights; "" where none can be given.

        Kinds that share a pre-training share this name.
        """
        ...

    @property
    def reads(self) -> tuple[type, ...]:
        """Configuration classes it reads, rows of `teachers_torch.settings.GROUPS`."""
        ...

    @property
    def seeded(self) -> bool:
        """Whether its vectors depend on the seed of the tuning."""
        ...

    @property
    def reads_tokens(self) -> bool:
        """Whether its cost is per token, so that benchmarks report tokens a second."""
        ...

    @property
    def pretraining(self) -> Pretraining | None:
        """How it is pre-trained."""
        ...

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Finds what would stop `build` or the tuning, in seconds and without writing anything.

        Raises:
            UserError: an input is missing, damaged or doesn't fit the settings.
        """
        ...

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """The settings and file contents that its vectors depend on; JSON values.

        Raises:
            UserError: a file is missing.
        """
        ...

    def build(self, task: Task, settings: TeacherSettings, cache: Cache, log: Log) -> T:
        """The teacher before tuning, fresh weights drawn from torch's global generator.

        Raises:
            UserError: its inputs are missing or wrong.
        """
        ...

    def tune(
        self,
        teacher: T,
        task: Task,
        validate: Callable[[], dict[str, float]],
        seed: int,
        state_file: Path,
        log: Log,
    ) -> Tuning:
        """Trains in place and ends with the best weights; or only validates.

        Args:
            teacher: the teacher, from `build`.
            task: trained on its training part.
            validate: metrics over all validation users, `evaluate.metrics.SELECTION_METRIC` among
                them.
            seed: seed of the batches; torch's global generator is seeded by the caller.
            state_file: holds the state after each epoch; a killed tuning continues from it.
            log: receives a `step` event each step, an `epoch` event each validated epoch.
        """
        ...

    def module(self, teacher: T) -> "nn.Module | None":
        """The module whose state dict is saved and loaded; None if there is nothing to save."""
        ...
