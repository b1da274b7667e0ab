"""Tells which csv files polars reads as Python's own csv does.

Of others it finds the ends of lines by counting all quotes, also those that open no cell, and
passes over cells that are too many where it isn't asked for all columns; in silence.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from prmkd_jax.data.sources.files import DAMAGED, open_binary, packing

_PIECE = 1 << 18
_QUOTE, _NEWLINE, _RETURN = b'"\n\r'


def is_regular(path: Path, separator: str, width: int) -> bool:
    r"""Whether quotes, line ends and the number of cells are as every reader expects them.

    Every quote opens a cell, closes it or is doubled in it; no `\r` stands without a `\n` behind
    it; no line has more than `width` cells or a byte-order mark at its beginning, but the first
    one. False also of a file that can't be read, or that polars would unpack.

    Args:
        path: a csv or tsv file, also gzipped.
        separator: the ASCII character between two cells.
        width: number of its columns.
    """
    opens, closes = _table(f'{separator}\n"'), _table(f'{separator}\n\r"')
    others = bytes({*range(256)} - {ord(separator), _NEWLINE, _QUOTE})
    quotes = cells = 0
    try:
        for piece in _pieces(path, separator.encode()):
            codes = np.frombuffer(piece, dtype=np.uint8)
            if b"\n\xef\xbb" in piece:
                return False
            if b"\r" in piece:
                returns = np.flatnonzero(codes[1:-1] == _RETURN) + 1
                if (codes[returns + 1] != _NEWLINE).any():
                    return False
            marks = np.frombuffer(piece[1:-1].translate(None, others), dtype=np.uint8)
            if quotes % 2 or b'"' in piece:
                places = np.flatnonzero(codes[1:-1] == _QUOTE) + 1
                opening, closing = places[quotes % 2 :: 2], places[1 - quotes % 2 :: 2]
                if not (opens[codes[opening - 1]].all() and closes[codes[closing + 1]].all()):
                    return False
                is_quote = marks == _QUOTE
                is_open = np.logical_xor.accumulate(is_quote) ^ bool(quotes % 2)
                marks = marks[~(is_quote | is_open)]
                quotes += len(places)
            most, cells = _most_cells(marks == _NEWLINE, cells)
            if most > width:
                return False
    except (OSError, *DAMAGED):
        return False
    return quotes % 2 == 0


def _table(characters: str) -> Bool[np.ndarray, " 256"]:
    """Which bytes are one of these characters."""
    table = np.zeros(256, dtype=bool)
    table[[*characters.encode()]] = True
    return table


def _most_cells(is_line_end: Bool[np.ndarray, " ends"], begun: int) -> tuple[int, int]:
    """The most cells of a line, and how many of the last one, which goes on, have ended.

    Args:
        is_line_end: of every end of a cell, whether the line ends there too.
        begun: cells of the first line that ended in earlier pieces.
    """
    lines = np.flatnonzero(is_line_end)
    if not len(lines):
        begun += len(is_line_end)
        return begun + 1, begun
    counts = np.diff(lines, prepend=-1)
    counts[0] += begun
    begun = len(is_line_end) - 1 - int(lines[-1])
    return max(int(counts.max()), begun + 1), begun


def _pieces(path: Path, end: bytes) -> Iterator[bytes]:
    """A file between a line break and `end`, in pieces that overlap by two bytes.

    So every byte of it stands once in the inner part of a piece, between its neighbours.
    """
    with open_binary(path) as stream:
        kept = b"\n"
        text = stream.read(_PIECE)
        if packing(text):
            raise OSError("packed data")
        text = text.removeprefix(codecs.BOM_UTF8)
        while text:
            piece = kept + text
            yield piece
            kept = piece[-2:]
            text = stream.read(_PIECE)
    yield kept + end
