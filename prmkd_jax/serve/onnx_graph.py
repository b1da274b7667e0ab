"""JAX functions as ONNX graphs, for the operations that students are made of.

A function is traced by JAX, and every operation of its jaxpr becomes a node or two. Dimensions
may be symbols of `jax.export`; what depends on them is computed when the graph runs. jax2onnx
knows more operations, but needs an Orbax older than the training's, and its stand-ins for
jax.numpy fail on these programs' symbolic batches.
"""

import ast
import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike
from onnx import TensorProto, helper, numpy_helper

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.onnx_ops import OPERATIONS
from prmkd_jax.serve.onnx_types import Jaxpr, Variable

# Opset 18 is that of ONNX 1.13 (2022); ONNX Runtime 1.15 is the oldest that is tried.
OPSET = 18

TYPES = {
    "float32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


class OnnxGraph:
    """An ONNX graph under construction; a value is known by its name.

    Attributes:
        nodes: the operations in the order in which they run.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._symbols: dict[str, str] = {}
        self._numbers = itertools.count()

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declares an input of int32; a dimension that is text is a symbol of the graph."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.INT32, shape))
        for axis, size in enumerate(shape):
            if isinstance(size, str) and size not in self._symbols:
                sizes = self.add("Shape", name, start=axis, end=axis + 1)
                self._symbols[size] = sizes
        return name

    def constant(self, value: ArrayLike, dtype: DTypeLike | None = None, name: str = "") -> str:
        """A constant; small equal ones are stored once."""
        array = np.asarray(value, dtype)
        key = (str(array.dtype), array.shape, array.tobytes() if array.size <= 64 else b"")
        if array.size <= 64 and key in self._constants:
            return self._constants[key]
        name = name or f"c{next(self._numbers)}"
        self._initializers[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        if array.size <= 64:
            self._constants[key] = name
        return name

    def add(self, operation: str, *inputs: str, **attributes: object) -> str:
        """Adds a node; the name of its output."""
        (name,) = self.add_many(operation, *inputs, outputs=1, **attributes)
        return name

    def add_many(
        self, operation: str, *inputs: str, outputs: int, **attributes: object
    ) -> list[str]:
        """Adds a node; the names of its outputs."""
        names = [f"v{next(self._numbers)}" for _ in range(outputs)]
        known = cast("dict[str, Any]", attributes)
        self.nodes.append(helper.make_node(operation, inputs, names, **known))
        return names

    def shape(self, dimensions: Sequence[object]) -> str:
        """A shape as a value: numbers, and symbols of `jax.export` and their sums and products."""
        numbers = [size for size in dimensions if isinstance(size, int)]
        if len(numbers) == len(dimensions):
            return self.constant(numbers, np.int64)
        parts = [self._size(size) for size in dimensions]
        return parts[0] if len(parts) == 1 else self.add("Concat", *parts, axis=0)

    def trace(
        self, function: Callable, arguments: Sequence[object], names: Sequence[str]
    ) -> list[str]:
        """Adds a function's operations; the names of its outputs.

        Args:
            function: pure, of arrays.
            arguments: the shapes and types of its arguments.
            names: the values that stand for the arguments' leaves.

        Raises:
            UserError: it has an operation that is not in `OPERATIONS`.
        """
        closed = jax.make_jaxpr(function)(*arguments)
        return self.inline(cast(Jaxpr, closed.jaxpr), closed.consts, names)

    def inline(self, jaxpr: Jaxpr, consts: Sequence[ArrayLike], names: Sequence[str]) -> list[str]:
        """Adds the operations of a jaxpr; the names of its outputs.

        Raises:
            UserError: as `trace`.
        """
        known: dict[Variable, str] = dict(zip(jaxpr.invars, names, strict=True))
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            known[variable] = self.constant(value)

        def read(atom: Variable) -> str:
            if (value := getattr(atom, "val", None)) is not None:
                return self.constant(value, atom.aval.dtype)
            return known[atom]

        for equation in jaxpr.eqns:
            operation = OPERATIONS.get(equation.primitive.name)
            if operation is None:
                raise UserError(
                    f"--formats: onnx: found the operation {equation.primitive.name!r} in the "
                    f"student, expected one of {', '.join(sorted(OPERATIONS))}"
                )
            found = operation(self, equation, [read(atom) for atom in equation.invars])
            outputs = [found] if isinstance(found, str) else found
            known.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def model(
        self, outputs: Sequence[tuple[str, str, str, Sequence[int | str]]]
    ) -> onnx.ModelProto:
        """The finished graph, without what no output needs.

        Args:
            outputs: the value of each, its name, dtype and shape.
        """
        for value, name, _, _ in outputs:
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        nodes, read = _needed(self.nodes, {name for _, name, _, _ in outputs})
        graph = helper.make_graph(
            nodes,
            "student",
            self._inputs,
            [helper.make_tensor_value_info(n, TYPES[t], shape) for _, n, t, shape in outputs],
            [tensor for name, tensor in self._initializers.items() if name in read],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=8, producer_name="prmkd-jax"
        )
        onnx.checker.check_model(model)
        return model

    def _size(self, size: object) -> str:
        """One dimension as a value of shape [1]."""
        return self._evaluate(ast.parse(str(size), mode="eval").body)

    def _evaluate(self, tree: ast.AST) -> str:
        if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
            return self.constant([tree.value], np.int64)
        if isinstance(tree, ast.Name):
            return self._symbols[tree.id]
        signs = {ast.Add: "Add", ast.Mult: "Mul", ast.Sub: "Sub"}
        if isinstance(tree, ast.BinOp) and type(tree.op) in signs:
            sides = self._evaluate(tree.left), self._evaluate(tree.right)
            return self.add(signs[type(tree.op)], *sides)
        raise UserError(
            f"--formats: onnx: found the size {ast.unparse(tree)}, expected sums and products"
        )


def _needed(
    nodes: Sequence[onnx.NodeProto], wanted: set[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """The nodes that some wanted value needs, in order, and all values that are read."""
    read, kept = set(wanted), []
    for node in reversed(nodes):
        if read & set(node.output):
            kept.append(node)
            read |= _reads(node)
    return kept[::-1], read


def _reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads, in its body too."""
    found = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            found |= _reads(inner)
        found |= {output.name for output in attribute.g.output}
    return found
