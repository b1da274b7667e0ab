"""Programs for platforms that this machine doesn't have: operations, custom calls, layouts.

JAX lowers for any platform anywhere. With the package libtpu installed, XLA also compiles for a TPU
that isn't there, which gives the layouts and the memory that it would have.
"""

import collections
import importlib.util
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmarks.portability.programs import JaxProgram

_OPERATION = re.compile(r"\b(?:stablehlo|chlo|mhlo)\.[a-z_0-9]+")
_CUSTOM_CALL = re.compile(r"custom_call @([\w.$]+)")
_LAYOUTS = re.compile(r"(?:operand_layouts|result_layouts|mhlo\.layout_mode) = [^\n]*?[\]\"]")
# The smallest slice of a TPU v5e that libtpu has a description of; one chip of it is used.
_SLICE = "v5e:2x2"
_NO_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


class Lowered(NamedTuple):
    """A program as it is for one platform.

    Attributes:
        operations: StableHLO operation → how often it stands in the text.
        custom_calls: target of a call outside of StableHLO → number of calls.
        layouts: layouts that the text asks for → how often.
    """

    operations: dict[str, int]
    custom_calls: dict[str, int]
    layouts: dict[str, int]


class Compiled(NamedTuple):
    """A program as XLA compiled it for one platform.

    Attributes:
        flops: XLA's own count, a loop's body once.
        bytes: XLA's own count of the bytes read and written.
        memory: bytes while it runs: arguments, results and temporaries, what is shared counted
            once.
        arguments: bytes of the arguments as they lie there, padding included.
        layouts: layout of an argument with two axes or more → how many have it.
    """

    flops: float
    bytes: float
    memory: int
    arguments: int
    layouts: dict[str, int]


def lower(program: JaxProgram, platforms: Sequence[str]) -> dict[str, Lowered]:
    """Platform → the program there."""
    lowered = {name: program.traced.lower(lowering_platforms=(name,)) for name in platforms}
    return {name: read(each.as_text()) for name, each in lowered.items()}


def exported_bytes(program: JaxProgram, platforms: Sequence[str]) -> int:
    """The size of one serialized program that runs on every platform."""
    # Its format knows neither records nor dictionaries with numbers as keys.
    function, shapes, _ = program.flat()
    exported = export.export(jax.jit(function), platforms=tuple(platforms))(*shapes)
    return len(exported.serialize())


def read(text: str) -> Lowered:
    """Counts what stands in a program's text."""

    def count(pattern: re.Pattern[str]) -> dict[str, int]:
        return dict(sorted(collections.Counter(pattern.findall(text)).items()))

    return Lowered(count(_OPERATION), count(_CUSTOM_CALL), count(_LAYOUTS))


def differences(lowered: Mapping[str, Lowered]) -> dict[str, dict[str, dict[str, int]]]:
    """What isn't the same everywhere: field → name → platform → how often.

    >>> one, two = Lowered({"a": 1, "b": 2}, {}, {}), Lowered({"a": 1}, {"Sort": 1}, {})
    >>> found = differences({"cpu": one, "tpu": two})
    >>> found["operations"], found["custom_calls"]
    ({'b': {'cpu': 2, 'tpu': 0}}, {'Sort': {'cpu': 0, 'tpu': 1}})
    """
    found: dict[str, dict[str, dict[str, int]]] = {}
    for field in Lowered._fields:
        counts = {name: getattr(each, field) for name, each in lowered.items()}
        names = sorted(set().union(*counts.values()))
        table = {name: {p: own.get(name, 0) for p, own in counts.items()} for name in names}
        found[field] = {n: each for n, each in table.items() if len(set(each.values())) > 1}
    return found


def compile_here(program: JaxProgram) -> Compiled:
    """Compiles for the first device of this machine."""
    return _described(program.traced.lower().compile())


def has_tpu_compiler() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def compile_for_tpu(program: JaxProgram) -> Compiled:
    """Compiles for one chip of a TPU v5e, which need not be there; needs libtpu."""
    # Else it asks the network which TPU this is, and says that it doesn't know.
    for name, value in _NO_TPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    described = topologies.get_topology_desc(platform="tpu", topology_name=_SLICE)
    mesh = Mesh(np.array(described.devices)[:1], ("one",))
    there = NamedSharding(mesh, PartitionSpec())
    function, shapes, donated = program.flat()
    placed = jax.jit(function, donate_argnums=donated, in_shardings=there, out_shardings=there)
    with warnings.catch_warnings():
        # JAX keeps the program, but can't read back one of a TPU that isn't there.
        warnings.filterwarnings("ignore", "Error reading persistent compilation cache")
        return _described(placed.lower(*shapes).compile())


def _described(compiled: jax.stages.Compiled) -> Compiled:
    costs = compiled.cost_analysis() or {}
    used: Any = compiled.memory_analysis()
    together = used.argument_size_in_bytes + used.output_size_in_bytes + used.temp_size_in_bytes
    formats = [each for each in jax.tree.leaves(compiled.input_formats) if each is not None]
    named = (_layout(each.layout) for each in formats)
    return Compiled(
        flops=costs.get("flops", 0.0),
        bytes=costs.get("bytes accessed", 0.0),
        memory=together - used.alias_size_in_bytes,
        arguments=used.argument_size_in_bytes,
        layouts=dict(sorted(collections.Counter(filter(None, named)).items())),
    )


def _layout(layout: Any) -> str:
    """An argument's order of axes, the slowest first, and its tiles; "" for fewer than two axes."""
    # An argument that the program doesn't read has none.
    if layout is None or len(layout.major_to_minor) < 2:
        return ""
    tiles = "".join(f" {tuple(tile)}" for tile in layout.tiling or ())
    return f"{tuple(layout.major_to_minor)}{' tiles' + tiles if tiles else ''}"
