"""Whole trainings in other roundings than float32, next to what another seed changes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.portability.arithmetic import EXACT, UNITS, Rounding, rounded_products
from experiments.benchmarks.portability.precision import same_products
from experiments.benchmarks.portability.programs import Case, cast_params, with_masters
from prmkd_jax.evaluate.metrics import SELECTION_METRIC, ranking_metrics
from prmkd_jax.train.inputs import distill_inputs, training_batches
from prmkd_jax.train.loop import make_evaluator
from prmkd_jax.train.step import StepMetrics, TrainState

FLOAT32 = "float32"


class Curve(NamedTuple):
    """One student trained in one arithmetic.

    Attributes:
        arithmetic: name.
        losses: mean loss of each epoch, a list a seed.
        validation: validation NDCG@10 after each epoch, a list a seed.
    """

    arithmetic: str
    losses: list[list[float]]
    validation: list[list[float]]


class Gap(NamedTuple):
    """An arithmetic against float32 with the same seeds.

    Attributes:
        arithmetic: name.
        difference: the difference of the best validation NDCG@10, mean over the seeds.
        noise: standard deviation of float32's best validation NDCG@10 over the seeds.
        within: whether the difference is no larger than the noise.
        loss: largest relative difference of an epoch's mean loss, over epochs and seeds.
    """

    arithmetic: str
    difference: float
    noise: float
    within: bool
    loss: float


class Arithmetic(NamedTuple):
    """How a student is trained.

    Attributes:
        rounding: the rounding of the factors of float32's products.
        dtype: the dtype that the step computes in; None for float32.
        precision: JAX's, of its float32 products.
    """

    rounding: Rounding = EXACT
    dtype: jnp.dtype | None = None
    # Where a GPU would take TF32 for float32, or a TPU bfloat16.
    precision: str = "highest"


ROUNDINGS = {
    FLOAT32: Arithmetic(),
    "tf32": Arithmetic(UNITS["tf32"]),
    "bf16": Arithmetic(UNITS["bf16"]),
    "bfloat16": Arithmetic(dtype=jnp.dtype(jnp.bfloat16)),
}
"""Name → how. Only in the last one activations have fewer bits too; its copies, Adam's moments and
the ranking stay float32."""
OWN = "float32, default"
"""What a machine that has more than one precision takes by itself."""


def every_arithmetic(device: jax.Device) -> dict[str, Arithmetic]:
    """`ROUNDINGS`, and the device's own products where they aren't float32's."""
    same = same_products(device, jnp.dtype(jnp.float32))
    own = {} if same["default"] == same["highest"] else {OWN: Arithmetic(precision="default")}
    return {**ROUNDINGS, **own}


def train_all(
    make: Callable[[int], Case],
    seeds: Sequence[int],
    epochs: int,
    ways: Mapping[str, Arithmetic],
) -> list[Curve]:
    """Trains with every seed in every arithmetic.

    Args:
        make: seed → the case.
        seeds: seeds of students and batches.
        epochs: epochs of each training.
        ways: name → arithmetic.
    """
    cases = [make(seed) for seed in seeds]
    steps: dict[tuple[jnp.dtype | None, str], Callable[..., Any]] = {}
    curves = []
    for name, how in ways.items():
        # The seeds and all roundings share what is compiled: a case's structure doesn't depend on
        # its seed, and how much is rounded is an argument.
        kind = how.dtype, how.precision
        if kind not in steps:
            step = cases[0].step(_optimizer(cases[0], how))
            steps[kind] = jax.jit(rounded_products(step, rests=False))
        with jax.default_matmul_precision(how.precision):
            each = [_train(case, how, steps[kind], epochs) for case in cases]
        curves.append(Curve(name, [losses for losses, _ in each], [found for _, found in each]))
    return curves


def _optimizer(case: Case, how: Arithmetic) -> optax.GradientTransformation:
    return case.optimizer if how.dtype is None else with_masters(case.optimizer)


def gaps(curves: Sequence[Curve]) -> list[Gap]:
    """Every arithmetic but the first against the first.

    >>> first = Curve("float32", [[1.0], [1.0]], [[0.2], [0.4]])
    >>> gap, = gaps([first, Curve("bf16", [[1.0], [1.1]], [[0.2], [0.5]])])
    >>> round(gap.difference, 3), round(gap.noise, 3), gap.within, round(gap.loss, 3)
    (0.05, 0.141, True, 0.1)
    """
    first, *others = curves
    best = [max(curve) for curve in first.validation]
    noise = statistics.stdev(best) if len(best) > 1 else 0.0
    found = []
    for other in others:
        pairs = zip(other.validation, best, strict=True)
        difference = statistics.mean(max(curve) - b for curve, b in pairs)
        losses, own = np.array(other.losses), np.array(first.losses)
        worst = float(np.abs(losses / own - 1).max())
        found.append(Gap(other.arithmetic, difference, noise, abs(difference) <= noise, worst))
    return found


def _train(
    case: Case, how: Arithmetic, step: Callable[..., tuple[TrainState, StepMetrics]], epochs: int
) -> tuple[list[float], list[float]]:
    run = case.run
    # With a place of its own, as the teachers' vectors have: else the second step, whose state
    # has got one from them, would be compiled again.
    state = jax.device_put(case.first_state(_optimizer(case, how), how.dtype), jax.devices()[0])
    batches = training_batches(run)
    validate = make_evaluator(run, case.graphdef, run.task.split.validation)
    losses, found = [], []
    for epoch in range(epochs):
        metrics = []
        for batch, distill in distill_inputs(run, batches.epoch(epoch)):
            state, measured = step(how.rounding, state, batch, distill, case.constants)
            metrics.append((measured.loss, measured.num_instances))
        loss, count = np.array(jax.device_get(metrics), dtype=float).T
        losses.append(float(np.average(loss, weights=count)))
        params = cast_params(state.params, jnp.dtype(jnp.float32))
        found.append(ranking_metrics(validate(params).all_items)[SELECTION_METRIC])
    return losses, found
