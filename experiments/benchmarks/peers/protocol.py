"""How a peer is timed, and what its process prints: a JSON object as its last line.

Every driver uses it, also those of other libraries, which run in environments of their own: it
imports the standard library alone.
"""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

RANKINGS = 3
"""Rankings that count, time permitting."""
METRIC = "NDCG@10"
Settings = dict[str, Any]
"""What a driver is told, as JSON: folder of the data, sizes, seconds."""


class Timed(NamedTuple):
    """Seconds of something that may have been stopped on its way.

    Attributes:
        seconds: the time of the work.
        share: how much that is of the whole, by its batches.
        steps: batches of the whole.
    """

    seconds: float
    share: float
    steps: int

    @property
    def whole(self) -> float:
        """Seconds of the whole, extrapolated where it was stopped."""
        return self.seconds / self.share


@runtime_checkable
class Peer(Protocol):
    """One model in one library."""

    def epoch(self, most: float) -> Timed:
        """Trains an epoch, or as much of it as begins within so many seconds."""
        ...

    def rank(self, part: str, most: float) -> tuple[Timed, dict[str, float]]:
        """Ranks all items for all users of a part, or as many as begin within so many seconds.

        Args:
            part: validation or test.
            most: seconds.

        Returns:
            The time, and Recall@10 and NDCG@10 of those that were ranked.
        """
        ...

    def keep(self) -> None:
        """Keeps the weights as they are."""
        ...

    def restore(self) -> None:
        """Takes the weights that were kept."""
        ...


class Clocked:
    """Batches that end when the time is over, one at least.

    Args:
        total: batches of the whole; None where that is known only at the end.
        most: seconds.
    """

    def __init__(self, total: int | None, most: float):
        self.total, self._most = total, most
        self.done, self.complete = 0, False

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, until the time is over."""
        started = time.perf_counter()
        for batch in batches:
            if self.done and time.perf_counter() - started > self._most:
                return
            yield batch
            self.done += 1
        self.complete = True

    def timed(self, seconds: float) -> Timed:
        """What the batches took."""
        total = self.done if self.complete else max(self.total or self.done, self.done)
        return Timed(seconds, self.done / max(total, 1), total)


class EpochClock:
    """Times an epoch of Lightning's and ends it when its time is over: half of a callback.

    Attributes:
        most: seconds of an epoch, after which no further batch begins.
        seconds: the time until the last batch was done.
        done: batches that are.
        total: batches of the whole epoch; infinite where the data don't say.
    """

    def __init__(self, most: float = math.inf):
        self.most, self.seconds = most, 0.0
        self.done, self.total = 0, 1.0
        self._started = 0.0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        """Starts the clock."""
        self._started, self.done = time.perf_counter(), 0
        self.total = trainer.num_training_batches
        module.on_train_batch_start = self._late

    def _late(self, *_: Any) -> int | None:
        """−1 makes Lightning skip the rest of the epoch, where the module says so."""
        late = time.perf_counter() - self._started > self.most
        return -1 if self.done and late else None

    def on_train_batch_end(self, *_: Any) -> None:
        """Counts."""
        self.done += 1
        self.seconds = time.perf_counter() - self._started


def ndcg(rank: float) -> float:
    """NDCG@10 of a 0-based rank with one target.

    >>> ndcg(0), ndcg(2), ndcg(10)
    (1.0, 0.5, 0.0)
    """
    return 1 / math.log2(rank + 2) if rank < 10 else 0.0


def metrics_of(ranks: Iterable[float]) -> dict[str, float]:
    """Recall@10 and NDCG@10 of users' ranks, counted from 0."""
    values = list(ranks)
    count = max(len(values), 1)
    return {
        "Recall@10": sum(rank < 10 for rank in values) / count,
        METRIC: sum(map(ndcg, values)) / count,
    }


def time_peer(peer: Peer, settings: Settings) -> dict[str, object]:
    """Epochs and rankings: each once to warm up, then as many as the time allows, one at least.

    Args:
        peer: fresh.
        settings: `seconds` for the epochs, and a third of that for the rankings; `epochs` at most.
    """
    most = settings["seconds"]
    peer.epoch(most / 3)
    epochs = _repeat(lambda left: peer.epoch(left), most, settings["epochs"])
    peer.rank("test", most / 6)
    rankings = _repeat(lambda left: peer.rank("test", left)[0], most / 3, RANKINGS)
    return {
        "epochs": [timed.whole for timed in epochs],
        "epoch_share": min(timed.share for timed in epochs),
        "steps": max(timed.steps for timed in epochs),
        "rankings": [timed.whole for timed in rankings],
        "ranking_share": min(timed.share for timed in rankings),
    }


def _repeat(take: Callable[[float], Timed], most: float, times: int) -> list[Timed]:
    """What is taken until the time is over; what was cut short doesn't count beside what wasn't."""
    found: list[Timed] = []
    started = time.perf_counter()
    while len(found) < times:
        left = most - (time.perf_counter() - started)
        if found and left < found[-1].seconds:
            break
        found.append(take(left))
    return found


def train_peer(peer: Peer, settings: Settings) -> dict[str, object]:
    """Trains until validation NDCG@10 has not risen for `patience` epochs, then tests the best.

    Args:
        peer: fresh.
        settings: `target`, `patience`, `max_epochs`.

    Returns:
        Seconds of training and validation until `target` was reached, None if it never was; the
        test metrics of the best epoch; the validation of each.
    """
    seconds, reached, best, best_epoch = 0.0, None, -1.0, 0
    history: list[float] = []
    while len(history) < settings["max_epochs"]:
        trained = peer.epoch(math.inf)
        ranked, metrics = peer.rank("validation", math.inf)
        seconds += trained.seconds + ranked.seconds
        history.append(metrics[METRIC])
        if reached is None and metrics[METRIC] >= settings["target"]:
            reached = seconds
        if metrics[METRIC] > best:
            best, best_epoch = metrics[METRIC], len(history)
            peer.keep()
        if len(history) - best_epoch >= settings["patience"]:
            break
    peer.restore()
    return {
        "to_target": reached,
        "trained": seconds,
        "validation": history,
        "test": peer.rank("test", math.inf)[1],
    }


def peak_memory() -> int:
    """Most bytes that this process has held.

    The system's ru_maxrss would also count what the process that started it held, which on Linux
    survives the start of another program.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def drive(make: Callable[[Settings], Peer], versions: Callable[[], dict[str, str]]) -> None:
    """A driver's whole: reads the settings that the first argument names, measures, prints.

    Args:
        make: builds the peer from the settings.
        versions: versions of the libraries that computed, by name.
    """
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    started = time.perf_counter()
    peer = make(settings)
    ready = time.perf_counter() - started
    measured = (train_peer if settings["target"] else time_peer)(peer, settings)
    content = {**measured, "ready": ready, "memory": peak_memory(), "versions": versions()}
    # A line of its own, whatever a library left unfinished.
    print("\n" + json.dumps(content), flush=True)
