"""What the ONNX converter reads of a jaxpr, and what it builds.

JAX's own classes say less: of a traced array neither shape nor dtype.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, DTypeLike
from onnx import NodeProto


@runtime_checkable
class Shaped(Protocol):
    """What is known of a value when a function is traced; sizes may be symbols."""

    @property
    def shape(self) -> Sequence[object]:
        """The sizes."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The type of its numbers."""
        ...


@runtime_checkable
class Variable(Protocol):
    """A value of a jaxpr; a literal has its number as `val`."""

    @property
    def aval(self) -> Shaped:
        """What is known of it."""
        ...


@runtime_checkable
class Equation(Protocol):
    """One operation of a jaxpr, as `jax.extend.core.JaxprEqn`."""

    @property
    def primitive(self) -> "Primitive":
        """The operation."""
        ...

    @property
    def params(self) -> Mapping[str, Any]:
        """Its parameters; which there are depends on the operation."""
        ...

    @property
    def invars(self) -> Sequence[Variable]:
        """What it reads."""
        ...

    @property
    def outvars(self) -> Sequence[Variable]:
        """What it makes."""
        ...


@runtime_checkable
class Primitive(Protocol):
    """An operation."""

    @property
    def name(self) -> str:
        """Its name, a key of `OPERATIONS`."""
        ...


@runtime_checkable
class Jaxpr(Protocol):
    """A traced function, as `jax.extend.core.Jaxpr`."""

    @property
    def constvars(self) -> Sequence[Variable]:
        """What stands for its constants."""
        ...

    @property
    def invars(self) -> Sequence[Variable]:
        """What stands for its arguments."""
        ...

    @property
    def outvars(self) -> Sequence[Variable]:
        """What it returns."""
        ...

    @property
    def eqns(self) -> Sequence[Equation]:
        """Its operations, in order."""
        ...


@runtime_checkable
class Builder(Protocol):
    """What an operation uses of `onnx_graph.OnnxGraph`."""

    nodes: list[NodeProto]

    def add(self, operation: str, *inputs: str, **attributes: object) -> str:
        """Adds a node; the name of its output."""
        ...

    def add_many(
        self, operation: str, *inputs: str, outputs: int, **attributes: object
    ) -> list[str]:
        """Adds a node; the names of its outputs."""
        ...

    def constant(self, value: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """A constant's name."""
        ...

    def shape(self, dimensions: Sequence[object]) -> str:
        """A shape's name; dimensions may be symbols."""
        ...

    def inline(self, jaxpr: Jaxpr, consts: Sequence[ArrayLike], names: Sequence[str]) -> list[str]:
        """Adds the operations of a jaxpr."""
        ...


Operation = Callable[[Builder, Equation, list[str]], "str | list[str]"]
