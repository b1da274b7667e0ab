"""What devices send each other in a step, read from the compiled program."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_CALL = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(-start)?\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d+(?:e\d+m\d+\w*)?|pred)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COMPACT = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
# Axes of a mesh with their sizes, then those, or parts of those, that a group runs along.
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_SIZE = re.compile(r"'(\w+)'=(\d+)")
_ALONG = re.compile(r"'(\w+)'(?::\(\d+\)(\d+))?")
_FLAG = ("u32", "")
_BITS = re.compile(r"\d+")


class Collective(NamedTuple):
    """One exchange between devices.

    Attributes:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, `collective-permute` or `all-to-all`.
        group: devices that take part together.
        result: bytes of the result on each device.
    """

    kind: str
    group: int
    result: int

    @property
    def sent(self) -> float:
        """Bytes that each device sends, where the devices pass their parts around a ring."""
        share = (self.group - 1) / self.group
        if self.kind == "all-reduce":
            return 2 * self.result * share
        if self.kind == "reduce-scatter":
            return self.result * (self.group - 1)
        if self.kind == "collective-permute":
            return float(self.result)
        return self.result * share


def collectives(text: str, devices: int) -> list[Collective]:
    """All exchanges in a compiled program; one in a loop is listed once.

    Args:
        text: the compiled program, from `compiled.as_text()`.
        devices: number of devices of the mesh, which all take part where no groups are given.

    >>> line = "%x = f32[2,3]{1,0} all-reduce(%y), replica_groups={{0,1},{2,3}}, to_apply=%a"
    >>> found, = collectives(line, 4)
    >>> found, found.sent
    (Collective(kind='all-reduce', group=2, result=24), 24.0)
    >>> line = "%x = f32[6] all-reduce(%y), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%a"
    >>> collectives(line, 8)
    [Collective(kind='all-reduce', group=4, result=24)]
    >>> line = "%x = (f32[2], f32[4], u32[], u32[]) all-gather-start(%y), replica_groups={{0,1}}"
    >>> collectives(line, 2)
    [Collective(kind='all-gather', group=2, result=16)]
    """
    return list(_read(text, devices))


def _read(text: str, devices: int) -> Iterator[Collective]:
    for line in text.splitlines():
        match = _CALL.search(line)
        if match is None:
            continue
        result, kind, begun, rest = match.groups()
        group = 2 if kind == "collective-permute" else _group(rest, devices)
        if group > 1:
            arrays = _ARRAY.findall(result)
            if begun and kind != "all-reduce":
                # One that goes on meanwhile names its operands, its results, and its flags.
                arrays = [each for each in arrays if each != _FLAG]
                arrays = arrays[len(arrays) // 2 :]
            yield Collective(kind, group, sum(map(_bytes, arrays)))


def _group(text: str, devices: int) -> int:
    """Devices of a group, in any of the three ways in which XLA writes groups."""
    if compact := _COMPACT.search(text):
        return int(compact[2])
    if listed := _LISTED.search(text):
        return len(listed[1].split(","))
    if named := _NAMED.search(text):
        sizes = dict(_SIZE.findall(named[1]))
        return math.prod(int(part or sizes[axis]) for axis, part in _ALONG.findall(named[2]))
    return devices


def _bytes(array: tuple[str, str]) -> int:
    dtype, shape = array
    bits = _BITS.search(dtype)
    size = 8 if bits is None else int(bits[0])
    return math.prod(int(axis) for axis in shape.split(",") if axis) * size // 8
