"""The optimiser."""

import functools

import jax
import optax

from prmkd_jax.train.config import TrainConfig


@functools.cache
def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam with coupled L2: the decay joins the gradient before the moments.

    Biases and LayerNorm parameters, the arrays with one axis, are not decayed. One object a
    configuration, so that runs that differ in their seed share what is compiled.
    """
    decayed = optax.add_decayed_weights(
        config.weight_decay, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    )
    return optax.chain(decayed, optax.adam(config.learning_rate))
