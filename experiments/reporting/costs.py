"""What `bench --suite=serve` has measured, as JSON has it: its keys and their types."""

from collections.abc import Mapping
from typing import TypedDict


class ModelSize(TypedDict):
    """A model with a catalogue, and one way of having the items' vectors.

    `file_bytes` is 0 where there are no files; `parameters` are counted as in `train`'s results.
    """

    model: str
    items: int
    item_vectors: str
    file_bytes: int
    parameters: int
    bytes_held: int
    flops_per_request: float
    seconds_for_item_vectors: float


class Latency(TypedDict):
    """How long such a model takes for a batch of histories."""

    model: str
    item_vectors: str
    items: int
    batch: int
    calls: int
    p50_ms: float
    p90_ms: float
    p99_ms: float


class Middle(TypedDict):
    """The distilled student's time by the plain one's: median of the rounds, 95 % interval."""

    ratio: float
    low: float
    high: float


class Ratio(Middle):
    """The same for one catalogue and batch; both are `all` where it is of all rounds."""

    items: int | str
    batch: int | str


class CostFigures(TypedDict):
    """All figures."""

    models: list[ModelSize]
    latencies: list[Latency]
    ratios: list[Ratio]
    ratio: Middle


class ServeCosts(CostFigures):
    """The content of `bench-serve.json`."""

    environment: Mapping[str, object]
    settings: Mapping[str, object]
