"""Measurements with units, and what a step would cost at this machine's own speeds."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import repeated

# On an accelerator the call alone takes as long as a product of the smaller ones.
_MATRIX = {"cpu": 2048, "other": 8192}
_COPIED = {"cpu": 2**26, "other": 2**28}


class Measurement(NamedTuple):
    """One measured number.

    Attributes:
        name: the name of the thing measured.
        value: the number.
        unit: the value's unit; "" for a ratio or a count.
    """

    name: str
    value: float
    unit: str


class Speeds(NamedTuple):
    """How fast this machine computes and copies.

    Attributes:
        flops: float32 operations a second of a large matrix product, at JAX's own precision: on
            a GPU TF32, unless `JAX_DEFAULT_MATMUL_PRECISION` says otherwise.
        bandwidth: bytes a second that are read and written where a large array is changed.
    """

    flops: float
    bandwidth: float

    def measurements(self) -> list[Measurement]:
        """Both speeds."""
        return [
            Measurement("machine float32 matrix product", self.flops / 1e9, "GFLOP/s"),
            Measurement("machine read and write", self.bandwidth / 1e9, "GB/s"),
        ]


class XlaWork(NamedTuple):
    """What a compiled program does, by XLA's own count.

    Attributes:
        flops: floating-point operations.
        bytes: bytes read and written.
    """

    flops: float
    bytes: float

    def measurements(self, name: str, speeds: Speeds) -> list[Measurement]:
        """Both counts, and the seconds that each takes at least on a machine.

        Args:
            name: the program's name.
            speeds: the machine's speeds.
        """
        return [
            Measurement(f"{name} operations", self.flops / 1e9, "GFLOP"),
            Measurement(f"{name} memory traffic", self.bytes / 1e9, "GB"),
            Measurement(f"{name} floor of the operations", self.flops / speeds.flops, "s"),
            Measurement(f"{name} floor of the traffic", self.bytes / speeds.bandwidth, "s"),
        ]


def machine_speeds() -> Speeds:
    """Times a large float32 matrix product, and reading and writing a large array."""
    where = "cpu" if jax.default_backend() == "cpu" else "other"
    size = _MATRIX[where]
    # Random: a product of ones runs faster on a GPU, which then draws less power.
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    product = median_seconds(jax.jit(lambda x: x @ x), matrix)
    # In place: new memory has to be paged in, and is read before it is written.
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    big = jnp.ones(_COPIED[where], jnp.float32)

    def copied() -> jax.Array:
        nonlocal big
        big = add(big)
        return big

    return Speeds(flops=2 * size**3 / product, bandwidth=2 * big.nbytes / median_seconds(copied))


def xla_work(compiled: jax.stages.Compiled) -> XlaWork:
    """A compiled program's work by XLA's own count; 0 where XLA doesn't say.

    XLA counts a loop's body once: of GRU4Rec's steps in time, and of the blocks of a softmax over
    many items, so their floors are lower than need be. `portability.work.work_of` counts every
    round of a program that isn't compiled, and knows nothing of how one is divided over devices.
    """
    costs = compiled.cost_analysis() or {}
    return XlaWork(flops=costs.get("flops", 0.0), bytes=costs.get("bytes accessed", 0.0))


def median_seconds(function: Callable[..., object], *arguments: object, repeats: int = 10) -> float:
    """Median seconds of a call, after one that compiles.

    Args:
        function: the timed call.
        arguments: given at each call.
        repeats: calls that count.
    """
    _, times = repeated(lambda: function(*arguments), repeats)
    return statistics.median(times)
