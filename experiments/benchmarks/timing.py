"""Times that are repeated: median and quartiles, compilation apart."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

FEWEST = 10
"""Repetitions of what a suite times."""


class BenchRow(NamedTuple):
    """One figure of a suite.

    Attributes:
        name: the name of the thing measured; rows of one name make a curve.
        value: the figure; of what is repeated, the median.
        unit: the value's unit; "" for a ratio or a count.
        low: first quartile; equal to `value` where nothing is repeated.
        high: third quartile.
        repeats: how often it was measured.
        of: the sizes that it was measured at, such as `items`.
    """

    name: str
    value: float
    unit: str
    low: float
    high: float
    repeats: int
    of: Mapping[str, int]


def once(name: str, value: float, unit: str, **of: int) -> BenchRow:
    """A figure that is counted, or measured once."""
    return BenchRow(name, value, unit, value, value, 1, of)


def seconds_of(name: str, seconds: Sequence[float], **of: int) -> BenchRow:
    """The median and the quartiles of repeated times.

    >>> seconds_of("step", [3.0, 1.0, 2.0, 4.0, 5.0], items=7)[1:5]
    (3.0, 's', 2.0, 4.0)
    """
    low, middle, high = np.percentile(seconds, [25, 50, 75]).tolist()
    return BenchRow(name, middle, "s", low, high, len(seconds), of)


def repeated(
    call: Callable[[], object], repeats: int = FEWEST, *, warm_up: int = 1
) -> tuple[list[float], list[float]]:
    """Seconds of the calls that warm up, of which the first compiles, and of those that count.

    Args:
        call: the function to time; its result is waited for.
        repeats: calls that count.
        warm_up: calls before them.
    """
    times = [clocked(call) for _ in range(warm_up + repeats)]
    return times[:warm_up], times[warm_up:]


def clocked(call: Callable[[], object]) -> float:
    """Seconds of a call, whose result is waited for."""
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def take_turns(calls: Sequence[Callable[[], float]], rounds: Iterable[object]) -> list[list[float]]:
    """What each call says that it took, round by round: what slows the machine meets all alike.

    Args:
        calls: called one after the other, in reversed order every other round.
        rounds: as many rounds as it has elements, each asked for before its round.

    >>> order = []
    >>> take_turns([lambda: order.append("a") or 1.0, lambda: order.append("b") or 2.0], range(2))
    [[1.0, 1.0], [2.0, 2.0]]
    >>> "".join(order)
    'abba'
    """
    times: list[list[float]] = [[] for _ in calls]
    order = list(range(len(calls)))
    for _ in rounds:
        for place in order:
            times[place].append(calls[place]())
        order.reverse()
    return times


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Inside, nothing is read from the cache of programs, in which an earlier run left its own."""
    before = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    _enable_cache(False)
    try:
        yield
    finally:
        _enable_cache(before)


def _enable_cache(enabled: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", enabled)
    # JAX has noted whether it has one.
    compilation_cache.reset_cache()


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of value ≈ a · size^b, by least squares of the logarithms.

    >>> round(exponent([10, 100, 1000], [2.0, 20.0, 200.0]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
