"""Instance vectors in shards on disk, so that a run killed while encoding goes on from there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.parts import make_in_parts
from teachers_torch.teacher import Teacher

SHARD_SIZE = 4096


def encode_in_shards(
    teacher: Teacher,
    num_instances: int,
    folder: Path,
    progress: Callable[[int, int], None],
    shard_size: int = SHARD_SIZE,
) -> Float32[np.ndarray, "instances width"]:
    """Encodes all instances, except the shards that are in `folder` already.

    Args:
        teacher: tuned; the shards must be this one's.
        num_instances: ids 0 … num_instances − 1 are encoded.
        folder: made if missing; the caller removes it once the vectors are stored elsewhere.
        progress: receives the instances encoded and to encode, after each shard.
        shard_size: instances of a shard.
    """

    def encode(start: int, stop: int) -> np.ndarray:
        return teacher.encode_instances(np.arange(start, stop))

    return make_in_parts(folder, num_instances, shard_size, encode, progress)
