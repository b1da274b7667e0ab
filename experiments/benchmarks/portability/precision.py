"""How far scores and gradients are from float64, by dtype and precision of the products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.portability.arithmetic import UNITS, in_float64, rounded_products
from experiments.benchmarks.portability.ceilings import PRECISIONS
from experiments.benchmarks.portability.programs import Case, gradient_alone
from prmkd_jax.data.batches import Batch
from prmkd_jax.train.inputs import Constants, DistillBatch
from prmkd_jax.train.step import TrainState

_BEST = 10
# Compiling takes half the time and rounds no number otherwise; running is of no account here.
_RUN_ONCE: Any = {"compiler_options": {"xla_backend_optimization_level": 0}}


class Deviation(NamedTuple):
    """One arithmetic against float64 on the CPU.

    Attributes:
        platform: the platform that computed it.
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
    # One function, so that float32, float64 and the imitations are traced together.
    program = jax.jit(_outcome(case))
    # Put there: the teachers' vectors lie on the first device, and a program goes where they are.
    there = jax.device_put(arguments, cpu)
    with jax.enable_x64(True):
        exact = jax.device_get(jax.jit(in_float64(program), **_RUN_ONCE)(*there))
    real = np.asarray(case.batch.is_instance)
    found = []
    for device in {each.platform: each for each in (cpu, jax.devices()[0])}.values():
        for dtype in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
            inputs = (case.first_state(gradient_alone(), dtype), *arguments[1:])
            inputs = jax.device_put(inputs, device)
            outcomes: dict[str, Outcome] = {}
            for precision, same in same_products(device, dtype).items():
                if precision == same:
                    with jax.default_matmul_precision(precision):
                        outcomes[precision] = jax.device_get(program(*inputs))
                name = f"{dtype.name}, {precision}"
                found.append(_compared(device.platform, name, outcomes[same], exact, real))
    imitated = jax.jit(rounded_products(program, rests=True), **_RUN_ONCE)
    for unit, rounding in UNITS.items():
        outcome = jax.device_get(imitated(rounding, *there))
        found.append(_compared("cpu", unit, outcome, exact, real, imitated=True))
    return found


def same_products(device: jax.Device, dtype: jnp.dtype) -> dict[str, str]:
    """Precision → the first precision at which the device's products have the same bits.

    A CPU has one precision, so there a program need not be compiled for each. Asked of one
    product of random numbers: factors that are rounded otherwise give other bits.
    """
    rng = np.random.default_rng(0)
    factors = [jnp.asarray(rng.standard_normal((128, 128)), dtype) for _ in range(2)]
    factors = jax.device_put(factors, device)
    found: dict[bytes, str] = {}
    same = {}
    for precision in PRECISIONS:
        with jax.default_matmul_precision(precision):
            bits = np.asarray(jax.jit(jnp.matmul)(*factors)).tobytes()
        same[precision] = found.setdefault(bits, precision)
    return same


def _outcome(case: Case) -> Callable[..., Outcome]:
    step = case.step(gradient_alone())

    def outcome(
        state: TrainState, batch: Batch, distill: DistillBatch, constants: Constants
    ) -> Outcome:
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


def _flat(tree: object) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])
