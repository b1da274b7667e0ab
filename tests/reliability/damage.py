"""Files damaged at random: what a broken disk, a broken line or a stranger makes of them."""

import random


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file's bytes with one to four faults.

    Args:
        content: the sound file.
        chance: decides which and where; most are near the beginning, where headers are.
    """
    found = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        _FAULTS[chance.randrange(len(_FAULTS))](found, chance)
    return bytes(found)


def _place(found: bytearray, chance: random.Random) -> int:
    """Any place, half of the time one among the first 64."""
    most = min(len(found), 64) if chance.random() < 0.5 else len(found)
    return chance.randrange(max(most, 1))


def _flip(found: bytearray, chance: random.Random) -> None:
    if found:
        found[_place(found, chance)] ^= 1 << chance.randrange(8)


def _overwrite(found: bytearray, chance: random.Random) -> None:
    at, size = _place(found, chance), chance.randint(1, 16)
    found[at : at + size] = chance.randbytes(size)


def _extreme(found: bytearray, chance: random.Random) -> None:
    """Sizes and counts that are huge, negative or zero."""
    at, size = _place(found, chance), chance.choice((1, 2, 4, 8))
    found[at : at + size] = chance.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * size


def _cut(found: bytearray, chance: random.Random) -> None:
    del found[chance.randrange(len(found) + 1) :]


def _remove(found: bytearray, chance: random.Random) -> None:
    at = _place(found, chance)
    del found[at : at + chance.randint(1, 32)]


def _repeat(found: bytearray, chance: random.Random) -> None:
    at, size = _place(found, chance), chance.randint(1, 64)
    found[at:at] = found[at : at + size] * chance.randint(1, 4)


def _move(found: bytearray, chance: random.Random) -> None:
    """A piece in another's place."""
    size = chance.randint(1, 32)
    one, other = _place(found, chance), _place(found, chance)
    found[other : other + size] = found[one : one + size]


def _append(found: bytearray, chance: random.Random) -> None:
    found += chance.randbytes(chance.randint(1, 64))


_FAULTS = (_flip, _overwrite, _extreme, _cut, _remove, _repeat, _move, _append)
