"""Commands as users give them, several in one new interpreter.

Importing jax and torch takes longer than most commands at the tests' sizes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PROGRAM = """
import contextlib, io, json, runpy, sys
module, lines, blocked = json.loads(sys.argv[1])
for name in blocked:
    sys.modules[name] = None

for words in lines:
    sys.argv = [module, *words]
    shown, told = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status = 0
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told):
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            status = ended.code or 0
    texts = [stream.buffer.getvalue().decode() for stream in (shown, told)]
    print(json.dumps([status, *texts]), flush=True)
"""


class Done(NamedTuple):
    """What a command ended in, as of `subprocess.CompletedProcess`."""

    returncode: int
    stdout: str
    stderr: str


def run_commands(
    lines: Sequence[Sequence[str]],
    environment: Mapping[str, str] | None = None,
    timeout: int = 300,
    blocked: Sequence[str] = (),
    module: str = "experiments",
) -> list[Done]:
    """Runs `python -m experiments` with these words, one after the other.

    Args:
        lines: the words of each command.
        environment: variables besides this process's.
        timeout: seconds that all of them may take.
        blocked: modules that can't be imported there.
        module: what is run instead of `experiments`.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([module, [*map(list, lines)], [*blocked]])],
        cwd=ROOT, env={**os.environ, **(environment or {})},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [Done(*json.loads(line)) for line in done.stdout.splitlines()]
