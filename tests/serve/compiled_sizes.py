"""How much a recommender has compiled."""

from prmkd_jax.serve.recommender import Recommender


def compiled_sizes(recommender: Recommender) -> dict[str, int]:
    """Program → for how many sizes of its arguments it is compiled."""
    return {name: each._cache_size() for name, each in vars(recommender._scorer.programs).items()}
