"""How far scores and gradients are from float64, by dtype and precision of the products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.portability.arithmetic import UNITS, in_float64, rounded_products
from experiments.benchmarks.portability.ceilings import PRECISIONS
from experiments.benchmarks.portability.programs import Case, gradient_alone

_BEST = 10


class Deviation(NamedTuple):
    """One arithmetic against float64 on the CPU.

    Attributes:
        platform: where it was computed.
        arithmetic: `float32` or `bfloat16` and the precision of the products; or the unit of
            another machine that was imitated.
        scores: the largest difference of a score, by the largest score.
        loss: difference of the loss, by the loss.
        gradient: length of the gradient's difference, by the gradient's length.
        top_10: share of the ten best items of each instance that are among the reference's.
        imitated: whether it imitates the rounding of a machine that isn't here.
    """

    platform: str
    arithmetic: str
    scores: float
    loss: float
    gradient: float
    top_10: float
    imitated: bool


class Outcome(NamedTuple):
    """What is compared: scores of all items, the step's loss and its gradient."""

    scores: Any
    loss: Any
    gradient: Any


def deviations(case: Case) -> list[Deviation]:
    """Every dtype and precision on every platform at hand, then the units that are imitated."""
    arguments = (case.first_state(gradient_alone()), case.batch, case.distill, case.constants)
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu), jax.enable_x64(True):
        exact = jax.device_get(jax.jit(in_float64(_outcome(case)))(*arguments))
    real = np.asarray(case.batch.is_instance)
    found = []
    for device in {each.platform: each for each in (cpu, jax.devices()[0])}.values():
        for dtype in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
            program = jax.jit(_outcome(case))
            state = case.first_state(gradient_alone(), dtype)
            for precision in PRECISIONS:
                with jax.default_device(device), jax.default_matmul_precision(precision):
                    outcome = jax.device_get(program(state, *arguments[1:]))
                name = f"{dtype.name}, {precision}"
                found.append(_compared(device.platform, name, outcome, exact, real))
    for unit in UNITS:
        with jax.default_device(cpu):
            outcome = jax.device_get(jax.jit(rounded_products(_outcome(case), unit))(*arguments))
        found.append(_compared("cpu", unit, outcome, exact, real, imitated=True))
    return found


def _outcome(case: Case) -> Callable[..., Outcome]:
    step = case.step(gradient_alone())

    def outcome(state: Any, batch: Any, distill: Any, constants: Any) -> Outcome:
        after, metrics = step(state, batch, distill, constants)
        return Outcome(case.forward(state.params, batch), metrics.loss, after.opt_state)

    return outcome


def _compared(
    platform: str,
    arithmetic: str,
    outcome: Outcome,
    exact: Outcome,
    real: np.ndarray,
    imitated: bool = False,
) -> Deviation:
    scores = np.asarray(outcome.scores, np.float64)[real]
    expected = np.asarray(exact.scores)[real]
    flat, flat_exact = (_flat(each.gradient) for each in (outcome, exact))
    best, best_exact = (np.argsort(-each, axis=1)[:, :_BEST] for each in (scores, expected))
    shared = [len(set(a) & set(b)) / len(b) for a, b in zip(best, best_exact, strict=True)]
    return Deviation(
        platform=platform,
        arithmetic=arithmetic,
        scores=float(np.abs(scores - expected).max() / np.abs(expected).max()),
        loss=float(abs(float(outcome.loss) - float(exact.loss)) / abs(float(exact.loss))),
        gradient=float(np.linalg.norm(flat - flat_exact) / np.linalg.norm(flat_exact)),
        top_10=float(np.mean(shared)),
        imitated=imitated,
    )


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
