"""A user's own recommender as a teacher: an entry point that names a class, or a kind."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from prmkd_jax.common.cache import Cache
from prmkd_jax.common.errors import UserError, shortened
from prmkd_jax.common.plugins import own_class, own_code, own_entry, own_identity
from prmkd_jax.data.dataset import Dataset
from prmkd_jax.data.task import Task
from teachers_torch.given.untuned import Untuned
from teachers_torch.scale import check_scale
from teachers_torch.settings import TeacherSettings
from teachers_torch.teacher import AnyTeacher, Kind, Log

OWN_GROUP = "prmkd.teachers"
"""Group of the entry points of users' own teachers."""
VECTORS = ("encode_instances", "encode_items")
SCORES = "score"


class OwnTeacher:
    """Wraps a class of the entry-point group `prmkd.teachers`.

    The class is called with the data set and has two methods, `encode_instances(ids)` and
    `encode_items()`, each returning one row a request. It may have a `score_scale` (its
    training logit is score_scale · instance · item; above 0, 1 otherwise).
    """

    start = "own class"
    num_parameters = 0  # nothing is known of the model in the class

    def __init__(
        self, name: str, origin: str, model_class: Callable[[Dataset], Any], dataset: Dataset
    ):
        """Makes the user's object.

        Args:
            name: name in `--teachers`.
            origin: module:class, for error messages.
            model_class: the user's class.
            dataset: passed to the class.

        Raises:
            UserError: it raises something, or its score_scale is no number above 0.
        """
        self.name = name
        self._origin = origin
        self._num_items = dataset.num_items
        with self._own("__init__"):
            self._model = model_class(dataset)
        with self._own("score_scale"):
            scale = getattr(self._model, "score_scale", 1.0)
        self.score_scale = self._scale(scale)
        self._widths: dict[str, int] = {}

    @property
    def table_bytes(self) -> int:
        """Bytes of the item vectors in float32."""
        return self.encode_items().nbytes

    def encode_instances(
        self, instance_ids: Int[np.ndarray, " instances"]
    ) -> Float32[np.ndarray, "instances width"]:
        """The class's vectors of these instances.

        Raises:
            UserError: they are not finite, or not one row an instance, or it raises something.
        """
        with self._own("encode_instances"):
            vectors = self._model.encode_instances(instance_ids)
        return self._checked("encode_instances", vectors, len(instance_ids))

    def encode_items(self) -> Float32[np.ndarray, "items width"]:
        """The class's vectors of all items.

        Raises:
            UserError: they are not finite, or not one row an item, or it raises something.
        """
        with self._own("encode_items"):
            vectors = self._model.encode_items()
        return self._checked("encode_items", vectors, self._num_items)

    def _own(self, method: str) -> contextlib.AbstractContextManager[None]:
        told = f"--teachers: {self.name}: {self._origin}.{method}"
        return own_code(told, self._origin.partition(":")[0])

    def _scale(self, value: object) -> float:
        try:
            scale = float(_plain(value))
        except Exception:  # whatever the object's own code raises
            scale = math.nan
        told = f"--teachers: {self.name}: {self._origin}.score_scale"
        return check_scale(scale, told, _short_repr(value))

    def _checked(
        self, method: str, vectors: object, rows: int
    ) -> Float32[np.ndarray, "rows width"]:
        """The vectors as an array of their own, in any order, device and type of real numbers."""
        try:
            found = np.asarray(_plain(vectors))
        except Exception:  # whatever the object's own code raises
            raise self._wrong(_returned(method, type(vectors).__name__, rows)) from None
        if found.dtype.kind not in "fiub" or vectors is None:
            kind = f"dtype {found.dtype}" if found.ndim and found.dtype != object else ""
            raise self._wrong(_returned(method, kind or type(vectors).__name__, rows))
        with np.errstate(over="ignore"):  # told below
            array = np.ascontiguousarray(found, dtype=np.float32)
        if array.ndim != 2 or len(array) != rows or not array.shape[1]:
            raise self._wrong(
                f"{method} returned shape {list(array.shape)}, expected [{rows}, d] of finite "
                "numbers"
            )
        finite = np.isfinite(array).all(axis=1)
        if not finite.all():
            row = int(np.argmin(finite))
            raise self._wrong(f"{method} returned nan or inf in row {row}, expected finite numbers")
        before = self._widths.setdefault(method, array.shape[1])
        widths = [f"{name} {width}" for name, width in self._widths.items()]
        if before != array.shape[1]:
            widths.append(f"{method} {array.shape[1]}")
        if len({*self._widths.values(), array.shape[1]}) > 1:
            raise self._wrong(f"found vectors of width {' and '.join(widths)}, expected one width")
        return array

    def _wrong(self, what: str) -> UserError:
        return _wrong(self.name, self._origin, what)


class OwnScorer:
    """Wraps a class of the entry-point group `prmkd.teachers` that gives scores.

    The class is called with the data set and has the method `score(ids, items)`, which returns
    one row an instance and one column an item: training logits, nan in the whole row of an
    instance that it doesn't know. With an attribute `top` it is asked once for all items of each
    instance, and its best `top` are remembered; without, it is asked for every batch.
    """

    start = "own class"
    num_parameters = 0  # of the model behind the class nothing is known
    table_bytes = 0

    def __init__(
        self, name: str, origin: str, model_class: Callable[[Dataset], Any], dataset: Dataset
    ):
        """Makes the user's object; arguments as of `OwnTeacher`.

        Raises:
            UserError: its `top` is no number of items.
        """
        self.name = name
        self._origin = origin
        with own_code(f"--teachers: {name}: {origin}.__init__", origin.partition(":")[0]):
            self._model = model_class(dataset)
        with own_code(f"--teachers: {name}: {origin}.top", origin.partition(":")[0]):
            top = getattr(self._model, "top", None)
        if top is not None and not (type(top) is int and top > 0):
            raise _wrong(name, origin, f"top is {top!r}, expected a whole number of items above 0")
        self.top: int | None = top

    def score(
        self, instance_ids: Int[np.ndarray, " B"], items: Int[np.ndarray, " C"]
    ) -> Float32[np.ndarray, "B C"]:
        """The class's scores.

        Raises:
            UserError: they are no floats of the right shape; whoever reads them looks for nan.
        """
        told = f"--teachers: {self.name}: {self._origin}.{SCORES}"
        with own_code(told, self._origin.partition(":")[0]):
            given = self._model.score(instance_ids, items)
        scores = _floats(given)
        shape = (len(instance_ids), len(items))
        if scores is None or scores.shape != shape:
            found = type(given).__name__ if scores is None else f"shape {list(scores.shape)}"
            raise _wrong(
                self.name, self._origin,
                f"score returned {found}, expected an array of {list(shape)} of numbers",
            )  # fmt: skip
        return scores


def _floats(values: object) -> Float32[np.ndarray, "..."] | None:
    """Values as float32; tensors may be of any device and float, with a gradient too."""
    try:
        found = np.asarray(_plain(values))
    except Exception:  # whatever the object's own code raises
        return None
    if values is None or found.dtype.kind not in "fiub":
        return None
    with np.errstate(over="ignore"):  # told by who reads them
        return found.astype(np.float32, copy=False)


def _short_repr(value: object) -> str:
    """A value in few words; its own code may not say any."""
    try:
        return shortened(repr(value))
    except Exception:
        return type(value).__name__


def _wrong(name: str, origin: str, what: str) -> UserError:
    separator = ": " if what.startswith("found") else "."
    return UserError(f"--teachers: {name}: {origin}{separator}{what}")


def _plain(value: Any) -> Any:
    """A tensor of any device and float as an array, with a gradient too; others as they are.

    What a masked array hides is nan.
    """
    if isinstance(value, np.ma.MaskedArray):
        return np.ma.filled(value.astype(np.float64), np.nan)
    # torch itself is slow to import for --help
    if not hasattr(value, "detach"):
        return value
    tensor = value.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _returned(method: str, what: str, rows: int) -> str:
    return f"{method} returned {what}, expected an array of [{rows}, d] of finite numbers"


@dataclasses.dataclass(frozen=True)
class OwnKind(Untuned):
    """The kind of a user's class; see `teachers_torch.teacher.Kind`.

    Attributes:
        origin: module:class.
        version: class, package and version, which tell two states of the class apart.
        model_class: the class.
    """

    name: str
    origin: str
    version: dict[str, str]
    model_class: Callable[[Dataset], Any]

    @property
    def label(self) -> str:
        """The entry point's name; the class may have a `label` of its own, a text."""
        label = getattr(self.model_class, "label", self.name)
        return label if isinstance(label, str) else self.name

    def check(self, task: Task, settings: TeacherSettings, cache: Cache) -> None:
        """Checks that the class gives vectors or scores.

        Raises:
            UserError: it lacks the methods, or its label is no text.
        """
        label = getattr(self.model_class, "label", "")
        if not isinstance(label, str):
            raise _wrong(self.name, self.origin, f"label is {_short_repr(label)}, expected text")
        if self.gives_scores(settings):
            return
        missing = [name for name in VECTORS if not callable(getattr(self.model_class, name, None))]
        if missing:
            raise UserError(
                f"--teachers: {self.name}: {self.origin} has no method {missing[0]}, expected "
                f"{' and '.join(VECTORS)}, or {SCORES}"
            )

    def gives_scores(self, settings: TeacherSettings) -> bool:
        """Whether the class has the method that scores."""
        return callable(getattr(self.model_class, SCORES, None))

    def settings(self, task: Task, settings: TeacherSettings) -> dict[str, object]:
        """Class, package and version."""
        return dict(self.version)

    def build(self, task: Task, settings: TeacherSettings, cache: Cache, log: Log) -> AnyTeacher:
        """Makes the user's object."""
        wrapper = OwnScorer if self.gives_scores(settings) else OwnTeacher
        return wrapper(self.name, self.origin, self.model_class, task.dataset)


def plugin_kind(name: str) -> Kind[Any]:
    """The kind of an entry point: the object itself if it is one, else its class wrapped.

    Raises:
        UserError: it can't be imported.
    """
    found = own_class(OWN_GROUP, name, "teachers")
    if not isinstance(found, type) and hasattr(found, "build"):
        return found
    return OwnKind(name, own_entry(OWN_GROUP, name).value, own_identity(OWN_GROUP, name), found)
