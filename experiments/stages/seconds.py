"""What the clock says of a run, apart from its record: equal runs give equal records."""

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.stages.record import SeedResult, read_results
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import is_number
from prmkd_jax.common.reading import parse_json
from prmkd_jax.common.sealed import write_sealed_json

SECONDS = "timing.json"
_OF_EPOCH = ("train", "evaluate")


def write_seconds(
    folder: Path,
    seed: int,
    epochs: Sequence[Mapping[str, float]],
    cards: Mapping[str, Mapping[str, object]],
) -> None:
    """Adds a seed to timing.json.

    Args:
        folder: the run's.
        seed: the student's.
        epochs: `train` and `evaluate` of each epoch.
        cards: teacher → its card.
    """
    seeds = {**read_seconds(folder).get("seeds", {}), str(seed): list(epochs)}
    made = {name: _of_teacher(card) for name, card in cards.items()}
    write_sealed_json(folder / SECONDS, {"seeds": seeds, "teachers": made})


def _of_teacher(card: Mapping[str, object]) -> dict[str, object]:
    """`test_seconds` only where the card has them apart from those of the tuning."""
    test = card.get("test_seconds")
    return {
        "tune_seconds": card["seconds"],
        **({} if test is None else {"test_seconds": test}),
        "encode_seconds": card["encode_seconds"],
    }


def read_seconds(folder: Path) -> dict[str, Any]:
    """The content of timing.json; empty where there is none.

    Raises:
        UserError: it is damaged, or holds something else, as another version may.
    """
    path = folder / SECONDS
    content = read_results(path) if path.is_file() else {}
    seeds, teachers = content.get("seeds", {}), content.get("teachers", {})
    right = isinstance(seeds, dict) and isinstance(teachers, dict)
    if not right or not (
        all(seed.isdecimal() and _are_epochs(epochs) for seed, epochs in seeds.items())
        and all(_are_numbers(taken) for taken in teachers.values())
    ):
        raise UserError(
            f"{path}: found something else than the seconds of a run's epochs, expected what the "
            "run has written (delete the file; its times are unknown then)"
        )
    return content


def epoch_seconds(log: Path, name: str) -> list[dict[str, float]]:
    """The seconds of every epoch; one that was done again after a kill counts once."""
    taken = {
        event["epoch"]: event["seconds"]
        for event in _events(log)
        if event.get("stage") == "student"
        and event.get("run") == name
        # A damaged line must not end what took hours.
        and type(event.get("epoch")) is int
        and _are_numbers(event.get("seconds"), _OF_EPOCH)
    }
    return [taken[epoch] for epoch in sorted(taken)]


def _are_epochs(value: object) -> bool:
    return isinstance(value, list) and all(_are_numbers(one, _OF_EPOCH) for one in value)


def _are_numbers(value: object, names: Sequence[str] = ()) -> bool:
    """Whether it is an object of numbers, these among them."""
    if not isinstance(value, dict) or not set(names) <= value.keys():
        return False
    return all(map(is_number, value.values()))


def _events(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_bytes().splitlines() if log.is_file() else ():
        # A crash may have cut one in two.
        with contextlib.suppress(ValueError):
            event = parse_json(line)
            if isinstance(event, dict):
                yield event


def describe_timing(
    seeds: Sequence[SeedResult], seconds: Mapping[int, Sequence[Mapping[str, float]]]
) -> dict[str, float] | None:
    """What training a run took, all in seconds.

    The first epoch of each seed compiles and so doesn't count for the medians, unless it is the
    only one.

    Args:
        seeds: the results.
        seconds: seed → `train` and `evaluate` of every epoch.

    Returns:
        `train_seconds`: all epochs, the mean over seeds. `seconds_per_epoch` and
        `seconds_per_validation`: the median over epochs and seeds. `seconds_to_best`: the epochs
        until the one that was kept, the mean over seeds. None where a seed has left no seconds.
    """
    taken = [seconds.get(result.seed, ()) for result in seeds]
    if not all(len(epochs) == result.epochs for epochs, result in zip(taken, seeds, strict=True)):
        return None
    train = [[epoch["train"] for epoch in epochs] for epochs in taken]
    evaluate = [[epoch["evaluate"] for epoch in epochs] for epochs in taken]
    to_best = [
        sum(epochs[: result.best_epoch]) for epochs, result in zip(train, seeds, strict=True)
    ]
    return {
        "train_seconds": statistics.fmean(map(sum, train)),
        "seconds_per_epoch": _median_without_first(train),
        "seconds_per_validation": _median_without_first(evaluate),
        "seconds_to_best": statistics.fmean(to_best),
    }


def _median_without_first(seeds: Sequence[Sequence[float]]) -> float:
    later = [value for values in seeds for value in values[1:]]
    return statistics.median(later or [value for values in seeds for value in values])
