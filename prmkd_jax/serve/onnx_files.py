"""A student's two ONNX graphs: history → top k, and history → user vector."""

from collections.abc import Mapping

import jax
import numpy as np
import onnx
from jax import export

from prmkd_jax.serve.onnx_graph import OnnxGraph
from prmkd_jax.serve.program import ITEMS, Program, array_specs


def recommend_model(program: Program) -> onnx.ModelProto:
    """`history`, `users`, `excluded` → `items`, `scores`, as `Program.recommend`.

    All scores of a batch are held at once, so memory grows with batch · items.

    Raises:
        UserError: the student has an operation that the conversion doesn't know.
    """
    graph, arrays = OnnxGraph(), program.arrays()
    names = {name: graph.constant(array, name=f"tables.{name}") for name, array in arrays.items()}
    vectors = _vectors(graph, program, arrays, names)
    (batch,) = export.symbolic_shape("b")
    (scores,) = graph.trace(
        program.score,
        (array_specs(arrays), jax.ShapeDtypeStruct((batch, program.width), np.float32)),
        [*_sorted(names), vectors],
    )
    left = _without(graph, scores, graph.input("excluded", ["b", "e"]), len(arrays[ITEMS]))
    count = graph.constant([program.k], np.int64)
    best, rows = graph.add_many("TopK", left, count, outputs=2, axis=1)
    (answered,) = graph.trace(program.answered, _input_specs(program), ["history", "users"])
    infinite = graph.constant(-np.inf, np.float32)
    best = graph.add("Where", answered, best, infinite)
    rows = graph.add("Cast", rows, to=onnx.TensorProto.INT32)
    none = graph.constant(-1, np.int32)
    rows = graph.add("Where", graph.add("Greater", best, infinite), rows, none)
    return graph.model(
        [
            (rows, "items", "int32", ["b", program.k]),
            (best, "scores", "float32", ["b", program.k]),
        ]
    )


def vector_model(program: Program) -> onnx.ModelProto:
    """`history`, `users` → `vectors`, as `Program.user_vectors`.

    Raises:
        UserError: the student has an operation that the conversion doesn't know.
    """
    graph, arrays = OnnxGraph(), program.arrays()
    names = {name: graph.constant(array, name=f"tables.{name}") for name, array in arrays.items()}
    vectors = _vectors(graph, program, arrays, names)
    return graph.model([(vectors, "vectors", "float32", ["b", program.width])])


def _vectors(
    graph: OnnxGraph, program: Program, arrays: Mapping[str, np.ndarray], names: Mapping[str, str]
) -> str:
    """Declares the inputs and adds what makes user vectors of them."""
    graph.input("history", ["b", program.window or "h"])
    graph.input("users", ["b"])
    asked = (array_specs(arrays), *_input_specs(program))
    return graph.trace(program.user_vectors, asked, [*_sorted(names), "history", "users"])[0]


def _without(graph: OnnxGraph, scores: str, excluded: str, count: int) -> str:
    """The scores, −inf for the excluded items; a column after the last one takes the padding."""
    is_padding = graph.add("Less", excluded, graph.constant(0, np.int32))
    places = graph.add("Where", is_padding, graph.constant(count, np.int32), excluded)
    infinite = graph.constant(-np.inf, np.float32)
    rows = graph.add("Shape", scores, start=0, end=1)
    column = graph.add("Concat", rows, graph.constant([1], np.int64), axis=0)
    padded = graph.add("Concat", scores, graph.add("Expand", infinite, column), axis=1)
    updates = graph.add("Expand", infinite, graph.add("Shape", places))
    return graph.add("ScatterElements", padded, places, updates, axis=1)


def _input_specs(program: Program) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    batch, history = export.symbolic_shape("b, h")
    shape = (batch, program.window or history)
    return jax.ShapeDtypeStruct(shape, np.int32), jax.ShapeDtypeStruct((batch,), np.int32)


def _sorted(names: Mapping[str, str]) -> list[str]:
    """In the order in which JAX flattens a dictionary."""
    return [names[name] for name in sorted(names)]
