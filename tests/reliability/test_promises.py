"""docs/reliability.md names a test for each promise; every one of them is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"


def test_every_test_that_the_page_names_exists():
    """The page's tests are found in their files, so a renamed one is noticed."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 30
    for file, test in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in functions, f"{file}::{test}"


def test_every_row_of_a_table_names_a_test():
    """Each promise has at least one test, in the form that the test above reads."""
    rows = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| promise |")
    ]
    assert rows
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py::\w+`", row), row
        # What looks like a test in it is one, so that none escapes the test above.
        cell = row.rpartition(" | ")[2]
        assert re.fullmatch(r"(`tests/[\w/]+\.py::\w+`(, )?)+ \|", cell), row


def test_every_command_that_the_page_names_exists():
    commands = re.findall(r"^    python -m ([\w.]+)", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(commands) >= 4
    for module in commands:
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
