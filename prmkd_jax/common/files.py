"""Files of a run, written beside and renamed: whole or not there."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Writes sorted, indented JSON; equal contents give equal bytes."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def append_json_line(path: Path, content: Any) -> None:
    """Adds one line to a log of JSON lines."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(content, sort_keys=True) + "\n")
