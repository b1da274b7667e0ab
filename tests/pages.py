"""The Python code that the pages show, for tests that run it."""

import re

from tests.packages import ROOT


def python_blocks(page: str) -> list[str]:
    """The fenced blocks of a page, which is named from the project's folder."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def python_block(page: str, word: str) -> str:
    """The one block that holds this word."""
    (block,) = (block for block in python_blocks(page) if word in block)
    return block
