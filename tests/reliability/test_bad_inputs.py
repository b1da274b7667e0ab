"""Mistakes of a user, each with the exact line that tells it, and status 2.

A case is what stands on the command line, words divided by " | "; {tmp} is the folder of
`bad_inputs.make_world`.
"""

import pytest

from bridge.runtime import RuntimeSettings
from experiments.cli import command
from experiments.commands.table import COMMANDS
from tests.reliability.bad_inputs import make_world

CASES = [
    (
        "nonsense",
        "found 'nonsense', expected a command: prepare, train, pretrain, study, search, report, bench, flags",
    ),
    (
        "--dropout=0.1",
        "found '--dropout=0.1', expected a command: prepare, train, pretrain, study, search, report, bench, flags",
    ),
    ("study", "study: found no study, expected one of ablation, rivals, students"),
    ("study | nonsense", "study: found 'nonsense', expected a study: ablation, rivals, students"),
    (
        "study | ablation | extra",
        "found 'extra' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    (
        "train | word",
        "found 'word' outside any flag, expected --name=value (a list has commas and no spaces)",
    ),
    ("train | --no_such_flag=1", "unknown flag --no_such_flag, --help lists those there are"),
    ("train | --dropuot=0.1", "unknown flag --dropuot, did you mean --dropout?"),
    ("train | --dropout", "--dropout: found no value, expected --dropout=value"),
    ("train | --dropout=", "--dropout: found '', expected a number, at least 0, below 1"),
    ("train | --dropout=1", "--dropout: found '1', expected a number, at least 0, below 1"),
    ("train | --dropout=-0.1", "--dropout: found '-0.1', expected a number, at least 0, below 1"),
    ("train | --dropout=nan", "--dropout: found 'nan', expected a number, at least 0, below 1"),
    ("train | --dropout=inf", "--dropout: found 'inf', expected a number, at least 0, below 1"),
    ("train | --dropout=half", "--dropout: found 'half', expected a number, at least 0, below 1"),
    ("train | --hidden_size=0", "--hidden_size: found '0', expected a whole number, at least 1"),
    ("train | --hidden_size=-8", "--hidden_size: found '-8', expected a whole number, at least 1"),
    (
        "train | --hidden_size=8.5",
        "--hidden_size: found '8.5', expected a whole number, at least 1",
    ),
    (
        "train | --hidden_size=1e3",
        "--hidden_size: found '1e3', expected a whole number, at least 1",
    ),
    ("train | --hidden_size=", "--hidden_size: found '', expected a whole number, at least 1"),
    ("train | --num_layers=-1", "--num_layers: found '-1', expected a whole number, at least 1"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    make_world(folder)
    return folder


@pytest.mark.parametrize(("words", "line"), CASES)
def test_a_mistake_ends_in_its_line_and_status_2(words, line, world, monkeypatch, capsys):
    """A traceback, another status, or a line that leaves a user guessing."""
    monkeypatch.chdir(world)
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))
    argv = [word.replace("{tmp}", str(world)) for word in words.split(" | ")]
    monkeypatch.setattr("sys.argv", ["prmkd", *argv])
    with pytest.raises(SystemExit) as ended:
        command.run_command(lambda rest: command.dispatch(rest, COMMANDS, "prmkd"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.replace(str(world), "{tmp}") == f"error: {line}\n"
