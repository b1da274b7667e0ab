"""What devices send each other in a step, read from the compiled program."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_CALL = re.compile(rf"= (.+?) ({'|'.join(_KINDS)})(?:-start)?\((.*)")
_ARRAY = re.compile(r"\b([a-z]+\d+(?:e\d+m\d+\w*)?|pred)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_COMPACT = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
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
        text: of `compiled.as_text()`.
        devices: of the mesh, which all take part where no groups are given.

    >>> line = "%x = f32[2,3]{1,0} all-reduce(%y), replica_groups={{0,1},{2,3}}, to_apply=%a"
    >>> found, = collectives(line, 4)
    >>> found, found.sent
    (Collective(kind='all-reduce', group=2, result=24), 24.0)
    """
    return list(_read(text, devices))


def _read(text: str, devices: int) -> Iterator[Collective]:
    for line in text.splitlines():
        match = _CALL.search(line)
        if match is None:
            continue
        result, kind, rest = match.groups()
        listed, compact = _LISTED.search(rest), _COMPACT.search(rest)
        group = devices
        if compact:
            group = int(compact[2])
        elif listed:
            group = len(listed[1].split(","))
        elif kind == "collective-permute":
            group = 2
        if group > 1:
            yield Collective(kind, group, sum(map(_bytes, _ARRAY.findall(result))))


def _bytes(array: tuple[str, str]) -> int:
    dtype, shape = array
    bits = _BITS.search(dtype)
    size = 8 if bits is None else int(bits[0])
    return math.prod(int(axis) for axis in shape.split(",") if axis) * size // 8
