"""Instance vectors in shards on disk, so that a run killed while encoding goes on from there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from prmkd_jax.common.files import writing
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
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for start in range(0, num_instances, shard_size):
        stop = min(start + shard_size, num_instances)
        path = folder / f"{start}-{stop}.npy"
        if not path.exists():
            vectors = teacher.encode_instances(np.arange(start, stop))
            with writing(path) as partial, partial.open("wb") as file:
                np.save(file, vectors)
        shards.append(np.load(path))
        progress(stop, num_instances)
    return np.concatenate(shards)
