"""A pickle read as plain data: nothing that it names is imported or called.

Python's own unpickler runs what a file says. This one knows the opcodes that pickles of protocols
2 to 5 hold data in, makes plain values of them, and hands the few calls that make tensors to its
caller. Time and memory are bounded by a small multiple of the pickle's length.
"""

import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# More lists, tuples, dicts and objects than this are no configuration and no weights.
MOST_CONTAINERS = 200_000
DEEPEST = 100  # levels of lists in lists: other code walks them by recursion
LONGEST_INTEGER = 255  # bytes
LONGEST_NAME = 200  # of a module, and of what is in it
# Python's hash of a number is its value modulo 2⁶¹ − 1: longer keys could be made to collide.
LARGEST_KEY = 2**63
PROTOCOLS = range(2, 6)


class Damaged(ValueError):
    """What was read is no pickle, or none that is read here; the text says why."""


class Foreign(ValueError):
    """A pickle names something that has no place in it; the text is its name."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names, such as `torch._utils._rebuild_tensor_v2`."""

    path: str


class Inert:
    """Stands in for an object whose class isn't read: keeps its attributes, does nothing."""

    __slots__ = ("attributes",)

    def __init__(self) -> None:
        self.attributes: object = None


# Makes a value of a call's arguments. Raises Damaged where they are wrong.
Maker = Callable[[tuple], object]


def unpickle(
    data: bytes, makers: Mapping[str, Maker], ignored: tuple[str, ...], stored: Maker
) -> object:
    """The value in a pickle.

    Args:
        data: the complete pickle.
        makers: path of a function → what is called in its place.
        ignored: beginnings of the paths whose objects become `Inert`.
        stored: makes a value of a persistent id, which is how torch names a storage.

    Returns:
        None, bool, int, float, str, bytes, list, tuple, dict, OrderedDict, `Inert`, `Name`, and
        what the makers make. Sets become `Inert`: their elements would have to be hashed.

    Raises:
        Damaged: it is no such pickle.
        Foreign: it names something that is neither made nor ignored.
    """
    machine = _Machine(data, makers, ignored, stored)
    try:
        return machine.run()
    except (IndexError, struct.error) as error:
        raise Damaged("the pickle ends too early or takes what isn't there") from error
    except UnicodeDecodeError as error:
        raise Damaged("the pickle holds a text that is no UTF-8") from error


_CONTAINERS = (list, tuple, dict)


def expanded(root: object, most: int) -> int:
    """How many values a walk through lists, tuples and dicts meets, shared ones every time.

    A list that holds one list twice, which holds another twice, and so on, is small in a file
    and endless to whoever walks through it.

    Args:
        root: the content of a pickle.
        most: the count at which the walk is given up.

    Raises:
        Damaged: there are more than `most`, something contains itself, or the nesting is deeper
            than `DEEPEST`.

    >>> expanded({"a": [1, 2], "b": (3,)}, 100)
    6
    """
    # Id → values inside, itself included, and levels; (0, 0) while it is walked.
    sizes: dict[int, tuple[int, int]] = {}
    stack: list[tuple[object, bool]] = [(root, False)]
    while stack:
        value, walked = stack.pop()
        if walked:
            inside = [sizes.get(id(one), (1, 0)) for one in _inside(value)]
            total = 1 + sum(size for size, _ in inside)
            levels = 1 + max((levels for _, levels in inside), default=0)
            if total > most:
                raise Damaged("its lists share so much that they would not fit into memory")
            if levels > DEEPEST:
                raise Damaged(f"its lists are nested more than {DEEPEST} deep")
            sizes[id(value)] = total, levels
        elif id(value) in sizes:
            if sizes[id(value)] == (0, 0):
                raise Damaged("a list or dict contains itself")
        elif isinstance(value, _CONTAINERS):
            sizes[id(value)] = 0, 0
            stack.append((value, True))
            stack += [(one, False) for one in _inside(value) if isinstance(one, _CONTAINERS)]
    return sizes.get(id(root), (1, 0))[0]


def _inside(value: object) -> list[object] | tuple[object, ...]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list | tuple) else ()


class _Machine:
    """The stack machine that a pickle is a program of."""

    def __init__(
        self, data: bytes, makers: Mapping[str, Maker], ignored: tuple[str, ...], stored: Maker
    ):
        self.data, self.at = data, 0
        self.makers, self.ignored, self.stored = makers, ignored, stored
        self.stack: list = []
        self.marks: list[int] = []
        # Picklers number what they keep 0, 1, 2, …: a list can't be made huge by one number.
        self.memo: list = []
        self.containers = 0

    def run(self) -> object:
        data = self.data
        if data[:1] != b"\x80" or data[1] not in PROTOCOLS:
            raise Damaged("found no pickle of protocol 2 to 5")
        self.at = 2
        while True:
            opcode = data[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                if len(self.stack) != 1 or self.marks:
                    raise Damaged("the pickle ends in the middle of a value")
                return self.stack[0]
            step = _STEPS.get(opcode)
            if step is None:
                raise Damaged(f"the pickle has opcode {opcode:#04x}, which no such file needs")
            step(self)

    # Reading.

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        if len(found) != count:
            raise Damaged("the pickle ends too early")
        self.at += count
        return found

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def real(self) -> float:
        return struct.unpack(">d", self.take(8))[0]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise Damaged("the pickle ends too early")
        found, self.at = self.data[self.at : end], end + 1
        return found.decode()

    # The stack.

    def pop(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise Damaged("the pickle takes a value that isn't there")
        return self.stack.pop()

    def top(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise Damaged("the pickle takes a value that isn't there")
        return self.stack[-1]

    def since_mark(self) -> list:
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_container(self, value: object) -> None:
        self.containers += 1
        if self.containers > MOST_CONTAINERS:
            raise Damaged(f"the pickle has more than {MOST_CONTAINERS:,} lists, dicts and objects")
        self.stack.append(value)

    # Values.

    def integer(self, layout: str) -> None:
        size = self.number(layout)
        if not 0 <= size <= LONGEST_INTEGER:
            raise Damaged(f"the pickle has an integer of {size} bytes")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def text(self, layout: str) -> None:
        self.push(self.take(self.number(layout)).decode())

    def raw(self, layout: str) -> None:
        self.push(self.take(self.number(layout)))

    def row(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push_container(tuple(reversed(values)))

    def frozen_set(self) -> None:
        self.since_mark()
        self.push_container(Inert())

    def append(self, values: list) -> None:
        into = self.top()
        if isinstance(into, list):
            into.extend(values)
        elif not isinstance(into, Inert):
            raise Damaged("the pickle appends to what is no list")

    def set_items(self, values: list) -> None:
        into = self.top()
        if isinstance(into, Inert):
            return
        if not isinstance(into, dict) or len(values) % 2:
            raise Damaged("the pickle sets an item of what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            into[_key(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def add_items(self) -> None:
        self.since_mark()
        if not isinstance(self.top(), Inert):
            raise Damaged("the pickle adds to what is no set")

    # The memo.

    def put(self, index: int) -> None:
        if index == len(self.memo):
            self.memo.append(self.top())
        elif index < len(self.memo):
            self.memo[index] = self.top()
        else:
            raise Damaged("the pickle numbers its values with gaps")

    # Names and calls.

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Damaged("the pickle has a name that is no text")
        if max(len(module), len(name)) > LONGEST_NAME:
            raise Damaged(f"the pickle has a name of more than {LONGEST_NAME} characters")
        path = f"{module}.{name}"
        if path not in self.makers and not path.startswith(self.ignored):
            raise Foreign(path)
        self.push_container(Name(path))

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def call(self, *, named: bool = False) -> None:
        """Calls what is made here; `named` drops a call's keyword arguments (NEWOBJ_EX)."""
        if named:
            self.pop()
        arguments, callee = self.pop(), self.pop()
        if isinstance(callee, Name) and callee.path in self.makers:
            if not isinstance(arguments, tuple) or named:
                raise Damaged(f"the pickle calls {callee.path} without its arguments")
            self.push_container(self.makers[callee.path](arguments))
        elif isinstance(callee, Name | Inert):
            self.push_container(Inert())
        else:
            raise Damaged("the pickle calls what is no function")

    def build(self) -> None:
        """Sets attributes: an `Inert` keeps them, a state_dict's `_metadata` are dropped."""
        attributes, owner = self.pop(), self.top()
        if isinstance(owner, Inert):
            owner.attributes = attributes
        elif not isinstance(owner, OrderedDict):
            raise Damaged("the pickle sets attributes of what has none")

    def persistent(self) -> None:
        identity = self.pop()
        if not isinstance(identity, tuple):
            raise Damaged("the pickle names a storage by what is no tuple")
        self.push_container(self.stored(identity))


def _key(key: object) -> object:
    """A dict's key, if hashing and comparing it takes no time to speak of.

    Tuples don't: nested ones take 2ⁿ steps, and some can be made to collide.
    """
    small = isinstance(key, int) and -LARGEST_KEY <= key < LARGEST_KEY
    if small or key is None or isinstance(key, str | float | bytes | Inert):
        return key
    raise Damaged("the pickle has a dict whose key is no text and no plain number")


_STEPS: dict[int, Callable[[_Machine], object]] = {
    # MARK, POP, POP_MARK
    0x28: lambda m: m.marks.append(len(m.stack)),
    0x30: lambda m: m.pop(),
    0x31: lambda m: m.since_mark(),
    # NONE, NEWTRUE, NEWFALSE
    0x4E: lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    # BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT
    0x4A: lambda m: m.push(m.number("<i")),
    0x4B: lambda m: m.push(m.number("<B")),
    0x4D: lambda m: m.push(m.number("<H")),
    0x8A: lambda m: m.integer("<B"),
    0x8B: lambda m: m.integer("<i"),
    0x47: lambda m: m.push(m.real()),
    # BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
    0x58: lambda m: m.text("<I"),
    0x8C: lambda m: m.text("<B"),
    0x8D: lambda m: m.text("<Q"),
    # SHORT_BINSTRING, BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
    0x55: lambda m: m.text("<B"),
    0x42: lambda m: m.raw("<I"),
    0x43: lambda m: m.raw("<B"),
    0x8E: lambda m: m.raw("<Q"),
    0x96: lambda m: m.raw("<Q"),
    # EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3
    0x29: lambda m: m.push(()),
    0x74: lambda m: m.push_container(tuple(m.since_mark())),
    0x85: lambda m: m.row(1),
    0x86: lambda m: m.row(2),
    0x87: lambda m: m.row(3),
    # EMPTY_LIST, APPEND, APPENDS
    0x5D: lambda m: m.push_container([]),
    0x61: lambda m: m.append([m.pop()]),
    0x65: lambda m: m.append(m.since_mark()),
    # EMPTY_DICT, SETITEM, SETITEMS
    0x7D: lambda m: m.push_container({}),
    0x73: lambda m: m.set_item(),
    0x75: lambda m: m.set_items(m.since_mark()),
    # EMPTY_SET, ADDITEMS, FROZENSET
    0x8F: lambda m: m.push_container(Inert()),
    0x90: lambda m: m.add_items(),
    0x91: lambda m: m.frozen_set(),
    # BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
    0x71: lambda m: m.put(m.number("<B")),
    0x72: lambda m: m.put(m.number("<I")),
    0x94: lambda m: m.put(len(m.memo)),
    0x68: lambda m: m.push(m.memo[m.number("<B")]),
    0x6A: lambda m: m.push(m.memo[m.number("<I")]),
    # GLOBAL, STACK_GLOBAL
    0x63: lambda m: m.name(m.line(), m.line()),
    0x93: lambda m: m.stack_name(),
    # REDUCE, NEWOBJ, NEWOBJ_EX, BUILD, BINPERSID
    0x52: lambda m: m.call(),
    0x81: lambda m: m.call(),
    0x92: lambda m: m.call(named=True),
    0x62: lambda m: m.build(),
    0x51: lambda m: m.persistent(),
    # FRAME only says how much could be read at once.
    0x95: lambda m: m.take(8),
}
