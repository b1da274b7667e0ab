"""The optimiser."""

import functools

import jax
import optax

from prmkd_jax.train.config import TrainConfig


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with coupled L2: the decay joins the gradient before the moments.

    Biases and LayerNorm parameters, the arrays with one axis, are not decayed. Configurations that
    differ in neither share one object, and with it the compiled steps.
    """
    return _adam(config.learning_rate, config.weight_decay)


@functools.lru_cache(maxsize=8)
def _adam(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    decayed = optax.add_decayed_weights(
        weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    )
    return optax.chain(decayed, optax.adam(learning_rate))
