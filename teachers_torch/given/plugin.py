"""A user's own recommender as a teacher: a class found by its entry point."""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.plugins import own_class, own_entry
from prmkd_jax.data.dataset import Dataset
from teachers_torch.config import OWN_GROUP


class OwnTeacher:
    """Wraps a class of the entry-point group `prmkd.teachers`.

    The class is called with the data set and has two methods, `encode_instances(ids)` and
    `encode_items()`, each returning one row a request. It may say its `score_scale` (its
    training logit is score_scale · instance · item; 1 otherwise).
    """

    start = "own class"
    num_parameters = 0  # of the model behind the class nothing is known

    def __init__(self, name: str, dataset: Dataset):
        """Makes the user's object.

        Raises:
            UserError: its class can't be imported.
        """
        self.name = name
        self._origin = own_entry(OWN_GROUP, name).value
        self._num_items = dataset.num_items
        self._model = own_class(OWN_GROUP, name, "teachers")(dataset)
        self.score_scale = float(getattr(self._model, "score_scale", 1.0))

    @property
    def table_bytes(self) -> int:
        """Bytes of the item vectors in float32."""
        return self.encode_items().nbytes

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """The class's vectors of these instances.

        Raises:
            UserError: they are no finite rows, one an instance.
        """
        vectors = self._model.encode_instances(instance_ids)
        return self._checked("encode_instances", vectors, len(instance_ids))

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """The class's vectors of all items.

        Raises:
            UserError: they are no finite rows, one an item.
        """
        return self._checked("encode_items", self._model.encode_items(), self._num_items)

    def _checked(self, method: str, vectors: Any, rows: int) -> Float32[np.ndarray, "rows width"]:
        array = np.asarray(vectors, dtype=np.float32)
        if array.ndim != 2 or len(array) != rows or not np.isfinite(array).all():
            raise UserError(
                f"--teachers: {self.name}: {self._origin}.{method} returned shape "
                f"{list(array.shape)}, expected [{rows}, d] of finite numbers"
            )
        return array
