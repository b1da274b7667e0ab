"""All that is finished in a folder as one HTML page: its tables can be sorted, nothing is fetched.

What a study says in Markdown is shown as it is, so that page, files and docs have the same digits.
"""

import base64
import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.reporting.templates import render
from experiments.reporting.wording import MISSING
from prmkd_jax.common.files import write_text
from prmkd_jax.common.reading import open_regular

MARK = '<meta name="generator" content="prmkd report --page">'
"""Stands in the head of each of these pages, so that no other one is replaced."""
_HEAD = 1024  # bytes; the mark comes before what is as long as its content


class MarkdownBlock(NamedTuple):
    """A part of a Markdown text.

    Attributes:
        kind: "text", "item" of a list, or "table".
        text: the text of a paragraph or an item; "" for a table.
        head: a table's headings.
        rows: a table's cells.
    """

    kind: str
    text: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """A finished study.

    Attributes:
        anchor: the section's anchor in the page's address.
        title: the models or settings that were compared.
        data: the data set's name; "" for several.
        source: the record's path in the folder of studies.
        markdown: the study's text as Markdown.
        figures: heading → SVG file's text.
        settings: every flag's value.
        environment: versions and machine.
        remarks: lines on what the study lacks.
    """

    anchor: str
    title: str
    data: str
    source: str
    markdown: str
    figures: Mapping[str, str]
    settings: Mapping[str, object]
    environment: Mapping[str, object]
    remarks: Sequence[str]

    @property
    def blocks(self) -> list[MarkdownBlock]:
        """The Markdown in parts."""
        return parse_markdown(self.markdown)


def parse_markdown(text: str) -> list[MarkdownBlock]:
    """Paragraphs, list items and tables; all that our own files hold.

    >>> parse_markdown("Two.\\n\\n| a | b |\\n|---|---|\\n| 1 | **2** |\\n")[1]
    MarkdownBlock(kind='table', text='', head=['a', 'b'], rows=[['1', '**2**']])
    """
    blocks: list[MarkdownBlock] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("|"):
            end = next((i for i in range(at, len(lines)) if lines[i][:1] != "|"), len(lines))
            head, *rest = (_cells(row) for row in lines[at:end])
            blocks.append(MarkdownBlock("table", "", head, rest[1:]))
            at = end
            continue
        if line.startswith("- "):
            blocks.append(MarkdownBlock("item", line[2:]))
        elif line:
            blocks.append(MarkdownBlock("text", line))
        at += 1
    return blocks


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def write_gathered(
    path: Path, title: str, sections: Sequence[Section], missing: Mapping[str, str]
) -> None:
    """Writes the page, complete or not at all.

    Args:
        path: the HTML file; its folder exists.
        title: the page's heading.
        sections: the finished studies.
        missing: study that isn't there, or isn't finished → why, or how it is made.
    """
    filters = {"setting": _setting, "image": _image, "words": _is_words}
    shown = {"title": title, "sections": sections, "missing": missing}
    write_text(path, render("gathered.html", filters, mark=MARK, **shown))


def is_gathered(path: Path) -> bool:
    """Whether a file is a page that `write_gathered` has written."""
    with contextlib.suppress(OSError), open_regular(path) as stream:
        return MARK.encode() in stream.read(_HEAD)
    return False


def _setting(value: object) -> str:
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_words(cell: str) -> bool:
    """Whether a cell is read rather than compared: it then may break into lines."""
    return len(cell) > 40 or (len(cell) > 3 and not any(map(str.isdigit, cell)))


def _image(svg: str) -> str:
    """An SVG file as an address that holds it: its ids can't meet another figure's."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
