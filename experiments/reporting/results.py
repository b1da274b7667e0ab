"""The results of a study as JSON has them: their keys and types; docs/records.md says the rest."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

Metrics = Mapping[str, float]
"""Metric, such as `NDCG@10` → value."""
Figures = Mapping[str, float | None]
"""What lists are like, see `list_table.LISTS`."""


class Named(TypedDict):
    """A student or a method: its name in files and its display name."""

    name: str
    label: str


class StudyText(TypedDict):
    """What is compared, and with what."""

    name: str
    title: str
    versus: str


class Data(TypedDict):
    """A data set."""

    name: str
    fingerprint: str
    users: int
    items: int
    interactions: int
    average_length: float
    sparsity: float
    cold_targets: int
    sheet: NotRequired[list[dict[str, str | float | None]]]


class TeacherResult(TypedDict):
    """A teacher."""

    label: str
    validation: Metrics
    test: Metrics
    parameters: int


class Comparison(TypedDict):
    """A metric's difference from the reference's."""

    change: float | None
    interval: NotRequired[tuple[float, float] | None]
    t_p: float
    t_p_holm: float
    wilcoxon_p: float
    wilcoxon_p_holm: float


class Epoch(TypedDict):
    """An epoch of a training; more figures than these."""

    validation: Metrics
    teachers: NotRequired[Mapping[str, Metrics]]


class Seed(TypedDict):
    """What one seed's training gave."""

    seed: int
    best_epoch: int
    threshold: float | None
    history: list[Epoch]


class Tested(TypedDict):
    """A variant's tests against its reference, the models and other starts."""

    against: Mapping[str, Comparison] | None
    against_models: Mapping[str, Mapping[str, Comparison]]
    against_alone: Mapping[str, Mapping[str, Comparison]]


class VariantResult(TypedDict):
    """A variant: means over its seeds, and each seed."""

    name: str
    label: str
    kind: str
    reference: str | None
    student: Named
    method: Named | None
    teacher_weights: Metrics | None
    validation: Metrics
    test: Metrics
    test_std: Metrics | None
    test_before_refit: NotRequired[Metrics | None]
    test_masked: NotRequired[Metrics | None]
    lists: NotRequired[Figures | None]
    segment_lists: NotRequired[Mapping[str, Mapping[str, Figures]] | None]
    best_epoch: float
    parameters: int
    seeds: list[Seed]
    against: Mapping[str, Comparison] | None
    against_models: NotRequired[Mapping[str, Mapping[str, Comparison]]]
    against_alone: NotRequired[Mapping[str, Mapping[str, Comparison]]]
    masked: NotRequired[Tested | None]


class Flags(TypedDict):
    """Every flag's value; more than these."""

    dataset: str
    teachers: list[str]
    seeds: list[int]


class Results(TypedDict):
    """The results of a study."""

    schema_version: int
    study: StudyText
    data: Data
    settings: Flags
    teachers: Mapping[str, TeacherResult]
    untrained: NotRequired[Mapping[str, TeacherResult]]
    models: NotRequired[Mapping[str, Mapping[str, Metrics]]]
    variants: list[VariantResult]


class Timing(TypedDict, total=False):
    """What the clock says of a study, in seconds."""

    stages: Mapping[str, float]
    teachers: Mapping[str, Mapping[str, float]]
    variants: Mapping[str, Mapping[str, float] | None]
