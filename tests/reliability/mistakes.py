"""Gives a command that has a mistake in it, for `test_bad_inputs` and `test_bad_files`.

A case is what stands on the command line, words divided by " | "; {tmp} is the folder with the
files of `bad_inputs.make_world` and `bad_files.make_files`.
"""

import os
from pathlib import Path

import pytest

from bridge.runtime import RuntimeSettings
from experiments.cli import command
from experiments.commands.table import COMMANDS


def give(
    words: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a refused command says on its error output, the world's folder written as {tmp}.

    The exit status is 2, and no file came or went.
    """
    monkeypatch.chdir(world)
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    before = files_of(world)
    argv = [word.replace("{tmp}", str(world)) for word in words.split(" | ")]
    monkeypatch.setattr("sys.argv", ["prmkd", *argv])
    with pytest.raises(SystemExit) as ended:
        command.run_command(lambda rest: command.dispatch(rest, COMMANDS, "prmkd"))
    assert ended.value.code == 2
    assert files_of(world) == before
    return capsys.readouterr().err.replace(str(world), "{tmp}")


def files_of(folder: Path) -> list[str]:
    """What stands in a folder, empty folders aside: hundreds of files, twice a case."""
    found = []
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [os.path.join(place, name) for name in [*files, *links]]
    return sorted(found)
