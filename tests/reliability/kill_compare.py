"""What a folder holds, clocks taken out, so that two runs' folders can be compared."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

# Numbers of these come from a clock, wherever they stand.
_SECONDS = {
    *("seconds", "encode_seconds", "tune_seconds", "test_seconds", "teacher_seconds"),
    *("time", "stages", "digest", "mtime_ns"),
}
# Pages and tables that show seconds among other figures: their words are compared.
_SHOWN = {".html", ".md"}
_NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?")
# Files that only a command under way may have.
_LEFT_OVER = (
    "*.partial-*",
    "*orbax-checkpoint-tmp*",
    "*.parts",
    "shards",
    "*.before",
    "*.pt",
    ".*.part-*",
    ".*.old-*",
    "tmp*",
)


def contents(place: Path) -> dict[str, str]:
    """Every file and what it holds; training states and locks aren't compared."""
    found = {}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place)
        inner = set(name.parts) & {"checkpoints", "jax"}
        if path.is_file() and path.suffix != ".lock" and not inner:
            found[str(name)] = _content(path)
    return found


def _content(path: Path) -> str:
    if path.name == "results.json":
        return hashlib.sha256(path.read_bytes()).hexdigest()
    if path.suffix == ".json":
        content = _without_clock(json.loads(path.read_text(encoding="utf-8")))
        if path.name.endswith("timing.json"):
            content = _shape(content)
        return json.dumps(content, sort_keys=True)
    if path.name == "log.jsonl":
        # What was done again after a kill stands there twice.
        events = {
            json.dumps(_shape(_without_clock(json.loads(line))), sort_keys=True)
            for line in path.read_text(encoding="utf-8").splitlines()
        }
        return "\n".join(sorted(events))
    if path.suffix in _SHOWN:
        return _NUMBER.sub("#", path.read_text(encoding="utf-8"))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """The files that are missing, surplus, or of another content."""
    what = {True: "surplus", False: "another"}
    return [
        f"{name}: {'missing' if name not in found else what[name not in expected]}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]


def leftovers(place: Path) -> list[str]:
    """Files that only a command under way may have."""
    return [
        f"{path.relative_to(place)}: left over"
        for pattern in _LEFT_OVER
        for path in place.rglob(pattern)
    ]


def _without_clock(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_clock(x) for key, x in content.items() if key not in _SECONDS}
    if isinstance(content, list):
        return [_without_clock(x) for x in content]
    return content


def _shape(content: Any) -> Any:
    """The names and the lengths of content whose numbers are seconds."""
    if isinstance(content, dict):
        return {key: _shape(x) for key, x in content.items()}
    if isinstance(content, list):
        return [_shape(x) for x in content]
    return "a number" if isinstance(content, float) else content
