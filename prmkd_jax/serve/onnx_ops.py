"""What each operation of a jaxpr is in ONNX. Nothing here imports jax: equations are only read."""

import string
from collections.abc import Sequence

import numpy as np
from onnx import ValueInfoProto, helper

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.jaxprs import scan_counts
from prmkd_jax.serve.onnx_types import Builder, Equation, Operation, Shaped


def _node(name: str) -> Operation:
    return lambda graph, _, inputs: graph.add(name, *inputs)


def _same(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return inputs[0]


def _square(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add("Mul", inputs[0], inputs[0])


def _rsqrt(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add("Reciprocal", graph.add("Sqrt", *inputs))


def _erfc(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add("Sub", graph.constant(1.0, np.float32), graph.add("Erf", *inputs))


def _integer_pow(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    power = graph.constant(equation.params["y"], equation.invars[0].aval.dtype)
    return graph.add("Pow", inputs[0], power)


def _select(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    which, no, yes = inputs
    return graph.add("Where", which, yes, no)


def _convert(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return _cast(graph, inputs[0], str(np.dtype(equation.params["new_dtype"])))


def _cast(graph: Builder, value: str, dtype: str) -> str:
    return graph.add("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _broadcast(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    inner = equation.invars[0].aval.shape
    value = inputs[0]
    new = [axis for axis in range(len(shape)) if axis not in places]
    if inner and new:
        value = graph.add("Unsqueeze", value, graph.constant(new, np.int64))
    grown: list[object] = [1] * len(shape)
    for axis, size in zip(places, inner, strict=True):
        grown[axis] = size
    return value if tuple(grown) == tuple(shape) and inner else _expand(graph, value, shape)


def _expand(graph: Builder, value: str, shape: Sequence[object]) -> str:
    return graph.add("Expand", value, graph.shape(shape)) if shape else value


def _reshape(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add("Reshape", inputs[0], graph.shape(equation.params["new_sizes"]))


def _squeeze(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add(
        "Squeeze", inputs[0], graph.constant([*equation.params["dimensions"]], np.int64)
    )


def _transpose(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add("Transpose", inputs[0], perm=[*equation.params["permutation"]])


def _concatenate(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    return graph.add("Concat", *inputs, axis=equation.params["dimension"])


def _split(graph: Builder, equation: Equation, inputs: list[str]) -> list[str]:
    sizes = [int(size) for size in equation.params["sizes"]]
    return graph.add_many(
        "Split",
        inputs[0],
        graph.constant(sizes, np.int64),
        outputs=len(sizes),
        axis=equation.params["axis"],
    )


def _slice(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    starts, ends = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or [1] * len(starts)
    axes = graph.constant(range(len(starts)), np.int64)
    return graph.add(
        "Slice", inputs[0], graph.shape(starts), graph.shape(ends), axes, graph.shape(steps)
    )


def _pad(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between):
        raise UserError("--formats: onnx: found padding between elements, expected around them")
    return graph.add("Pad", inputs[0], graph.shape([*before, *after]), inputs[1])


def _iota(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    shape, axis = equation.params["shape"], equation.params["dimension"]
    size = _scalar(graph, shape[axis])
    count = graph.add("Range", graph.constant(0, np.int64), size, graph.constant(1, np.int64))
    count = _cast(graph, count, str(np.dtype(equation.params["dtype"])))
    if len(shape) > 1:
        others = [other for other in range(len(shape)) if other != axis]
        count = graph.add("Unsqueeze", count, graph.constant(others, np.int64))
    return _expand(graph, count, shape) if len(shape) > 1 else count


def _scalar(graph: Builder, size: object) -> str:
    return graph.add("Squeeze", graph.shape([size]), graph.constant([0], np.int64))


def _dimension(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    size = _scalar(graph, equation.params["dim"])
    return _cast(graph, size, str(equation.outvars[0].aval.dtype))


def _gather(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    """Rows of a table, or, where sizes are symbols, a slice along one axis."""
    table, index = (variable.aval for variable in equation.invars)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axes = numbers.start_index_map
    leading = len(index.shape) - 1
    others_whole = all(
        size == full
        for axis, (size, full) in enumerate(zip(sizes, table.shape, strict=True))
        if axis not in axes
    )
    offsets = tuple(range(leading, leading + len(table.shape) - 1))
    rows = axes == numbers.collapsed_slice_dims == (0,) and numbers.offset_dims == offsets
    if others_whole and rows:
        # JAX has the index in a last axis of its own.
        places = graph.add("Squeeze", inputs[1], graph.constant([leading], np.int64))
        return graph.add("Gather", inputs[0], places, axis=0)
    if others_whole and len(axes) == 1 and tuple(index.shape) == (1,):
        axis = graph.constant([*axes], np.int64)
        start = _cast(graph, inputs[1], "int64")
        end = graph.add("Add", start, graph.shape([sizes[axes[0]]]))
        found = graph.add("Slice", inputs[0], start, end, axis)
        return graph.add("Squeeze", found, axis) if numbers.collapsed_slice_dims else found
    raise UserError("--formats: onnx: found a gather of parts of rows, expected of complete rows")


def _dot(graph: Builder, equation: Equation, inputs: list[str]) -> str:
    ((left,), (right,)), (left_batch, right_batch) = equation.params["dimension_numbers"]
    shapes = [len(variable.aval.shape) for variable in equation.invars]
    batch = tuple(range(len(left_batch)))
    leading = (left_batch, right_batch) == (batch, batch) and left == shapes[0] - 1
    # As many free axes as matrices have; a plain matrix on the right serves any rank.
    if leading and shapes[1] == len(batch) + 2 and (not batch or shapes[0] == shapes[1]):
        if right == len(batch):
            return graph.add("MatMul", *inputs)
        order = [*batch, len(batch) + 1, len(batch)]
        return graph.add("MatMul", inputs[0], graph.add("Transpose", inputs[1], perm=order))
    letters = iter(string.ascii_lowercase)
    names = [[next(letters) for _ in range(shapes[0])], [""] * shapes[1]]
    pairs = zip((*left_batch, left), (*right_batch, right), strict=True)
    for mine, other in pairs:
        names[1][other] = names[0][mine]
    names[1] = [letter or next(letters) for letter in names[1]]
    summed = names[0][left]
    shared = [names[0][axis] for axis in left_batch]
    free = [x for side in names for x in side if x != summed and x not in shared]
    equals = f"{''.join(names[0])},{''.join(names[1])}->{''.join([*shared, *free])}"
    return graph.add("Einsum", *inputs, equation=equals)


def _reduce(name: str) -> Operation:
    def operation(graph: Builder, equation: Equation, inputs: list[str]) -> str:
        axes = [*equation.params["axes"]]
        if name == "ReduceSum":
            return graph.add(name, inputs[0], graph.constant(axes, np.int64), keepdims=0)
        value, is_bool = inputs[0], equation.invars[0].aval.dtype == bool
        value = _cast(graph, value, "int32") if is_bool else value
        reduced = graph.add(name, value, graph.constant(axes, np.int64), keepdims=0)
        return _cast(graph, reduced, "bool") if is_bool else reduced

    return operation


def _call(graph: Builder, equation: Equation, inputs: list[str]) -> list[str]:
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    if hasattr(inner, "consts"):
        return graph.inline(inner.jaxpr, inner.consts, inputs)
    return graph.inline(inner, (), inputs)


def _scan(graph: Builder, equation: Equation, inputs: list[str]) -> list[str]:
    """ONNX's Scan; what is constant in it is read from the graph around it."""
    params = equation.params
    consts, carries = scan_counts(params)
    if params["reverse"]:
        raise UserError("--formats: onnx: found a scan from the end, expected from the start")
    inner = params["jaxpr"]
    outside, graph.nodes = graph.nodes, []
    bound = [
        *inputs[:consts],
        *(f"{inputs[0]}_{len(outside)}_{number}" for number in range(len(inputs) - consts)),
    ]
    found = graph.inline(inner.jaxpr, inner.consts, bound)
    # An output of the body must be made in it, and under a name of its own.
    found = [graph.add("Identity", name) for name in found]
    body_nodes, graph.nodes = graph.nodes, outside
    arguments = inner.jaxpr.invars[consts:]
    body = helper.make_graph(
        body_nodes,
        "step",
        [_info(name, each.aval) for name, each in zip(bound[consts:], arguments, strict=True)],
        [_info(name, each.aval) for name, each in zip(found, inner.jaxpr.outvars, strict=True)],
    )
    return graph.add_many(
        "Scan",
        *inputs[consts:],
        outputs=len(found),
        body=body,
        num_scan_inputs=len(inputs) - consts - carries,
    )


def _info(name: str, aval: Shaped) -> ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
    sizes = [size if isinstance(size, int) else None for size in aval.shape]
    return helper.make_tensor_value_info(name, dtype, sizes)


OPERATIONS: dict[str, Operation] = {
    **{
        name: _node(onnx)
        for name, onnx in {
            "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
            "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "tanh": "Tanh",
            "logistic": "Sigmoid", "sqrt": "Sqrt", "erf": "Erf", "pow": "Pow",
            "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater",
            "ge": "GreaterOrEqual", "and": "And", "or": "Or", "not": "Not",
        }.items()
    },
    **dict.fromkeys(("stop_gradient", "copy", "copy_p", "optimization_barrier"), _same),
    **dict.fromkeys(
        ("jit", "pjit", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call"), _call
    ),
    "square": _square,
    "rsqrt": _rsqrt,
    "erfc": _erfc,
    "integer_pow": _integer_pow,
    "select_n": _select,
    "convert_element_type": _convert,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
    "concatenate": _concatenate,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "dim_as_value": _dimension,
    "gather": _gather,
    "dot_general": _dot,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax"),
    "reduce_and": _reduce("ReduceMin"),
    "scan": _scan,
}  # fmt: skip
