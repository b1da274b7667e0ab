"""The table of commands, as a user meets it: words, help, mistakes, flagfiles, the docs' page."""

import os
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bridge.runtime import RuntimeSettings
from experiments.cli import command
from experiments.cli.arguments import CONFIGS
from experiments.cli.command import Call, Command, check, dispatch, execute
from experiments.cli.console import Reporter
from experiments.cli.flags import config_of, names_of, parse
from experiments.cli.options import SearchConfig
from experiments.cli.settings import GROUPS, RunConfig, settings_from
from experiments.commands.table import COMMANDS
from experiments.runs import study
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import Group
from tests.commands import Done, run_commands
from tests.test_imports import JAX, TORCH, loaded

ROOT = Path(__file__).parents[3]
NAMED = {each.name: each for each in COMMANDS}
STUDIES = ", ".join(NAMED["study"].topics)
# Recipes of prepare have heads of their own (test_prepare.py).
FLAGFILES = sorted(path for path in CONFIGS.glob("*.cfg") if not path.name.startswith("prepare-"))
# The environment decides two defaults.
PLAIN = {k: v for k, v in os.environ.items() if not k.startswith("PRMKD_")}


def experiments(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *words],
        cwd=ROOT, env=PLAIN | {"COLUMNS": "100"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def settled(monkeypatch):
    """A process whose memory and threads are settled, as far as the frame can tell."""
    monkeypatch.setattr(command, "settle", lambda **_: RuntimeSettings({}, {}, False))


def test_help_lists_every_command_in_a_line_within_a_second():
    """Every command has its name and summary, and the time is the processor's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = experiments("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line[:2] == "  "]
    assert lines == [[each.name, each.summary] for each in COMMANDS]
    # The processor's seconds: a clock's depend on who else runs.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.fixture(scope="module")
def helps() -> dict[str, Done]:
    """What every command says when asked for help."""
    return dict(zip(NAMED, run_commands([[name, "--help"] for name in NAMED]), strict=True))


@pytest.mark.parametrize("name", NAMED)
def test_every_command_lists_its_flags(name, helps):
    """Every flag that the command reads is listed, below its usage and summary."""
    done = helps[name]
    assert done.returncode == 0, done.stderr
    usage = f"Usage: python -m experiments {NAMED[name].usage} [--flagfile"
    assert done.stdout.startswith(usage)
    assert NAMED[name].summary in done.stdout
    read = set(names_of(NAMED[name].groups)) - NAMED[name].ignores
    assert read <= set(re.findall(r"^  --(\w+)=", done.stdout, re.MULTILINE))


def test_commands_and_studies_load_neither_framework():
    """Neither jax nor torch is loaded, so memory settings come in time and --help is quick."""
    imported, held = loaded("experiments.cli", "experiments.commands", "experiments.studies")
    assert {"experiments.commands.table", "experiments.studies.rivals"} <= set(imported)
    assert not held & {*JAX, *TORCH}
    _, held = loaded("experiments.__main__")
    assert not held & {*JAX, *TORCH, "rich", "pyarrow", "matplotlib", "scipy"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "found 'trian', expected a command: prepare, train, "),
        (["--flagfile=demo.cfg"], "found '--flagfile=demo.cfg', expected a command: prepare,"),
        ([], "found no command, expected one of prepare,"),
        (
            ["study"],
            f"study: found no study, expected one of {STUDIES}",
        ),
        (["study", "--seeds=0"], "study: found no study"),
        (
            ["study", "rival"],
            f"study: found 'rival', expected a study: {STUDIES}",
        ),
        (["train", "rivals"], "found 'rivals' outside any flag"),
        (["search", "--vary=a=1"], "unknown flag --vary"),
    ],
)
def test_a_wrong_word_is_told_before_anything_is_imported(words, message):
    """A misspelt or missing word ends in an error that lists the possible ones."""
    with pytest.raises(UserError) as error:
        dispatch(words, COMMANDS, "prmkd")
    assert str(error.value).startswith(message)


def test_an_unknown_command_ends_in_one_line_with_the_nearest_name_and_status_2():
    """The line asks `did you mean pretrain or train?`."""
    done = experiments("pretain", "--seeds=0")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: found 'pretain', expected a command: ")
    assert line.endswith("; did you mean pretrain or train?")


CALLS: list[Call] = []


def body(call: Call) -> None:
    """A command's body: it notes the call."""
    CALLS.append(call)


def interrupted(_: Call) -> None:
    """A command's body: the user presses Ctrl-C."""
    raise KeyboardInterrupt


TRAIN = Command("try", "Try.", GROUPS, f"{__name__}:body")


def test_the_body_gets_settings_and_configurations(settled):
    """No value is lost on the way to the body."""
    groups = (*GROUPS, Group("Search", "", SearchConfig))
    argv = ["--seeds=4", "--grid=a=1", "--teachers="]
    execute(Command("try", "Try.", groups, f"{__name__}:body"), argv, "try")
    call = CALLS.pop()
    assert call.settings.run == call.config(RunConfig)
    assert call.settings.run.seeds == (4,)
    assert call.config(SearchConfig).grid == "a=1"
    assert call.argv == tuple(argv)
    assert call.explicit == {"seeds", "grid", "teachers"}


def test_a_command_without_a_run_needs_no_settings(settled):
    """A command such as `prepare` isn't refused for lack of a student."""
    groups = (Group("Search", "", SearchConfig),)
    execute(Command("try", "Try.", groups, f"{__name__}:body"), ["--model=base"], "try")
    assert CALLS.pop().config(SearchConfig).model == "base"


def test_flags_that_nothing_reads_are_told_for_every_command(settled, capsys):
    """The warning says whether an option or the command itself leaves the flag unread."""
    ignoring = Command("try", "Try.", GROUPS, f"{__name__}:body", ignores=frozenset({"seeds"}))
    execute(ignoring, ["--seeds=1", "--gbce_t=0.5", "--kl=js"], "try")
    CALLS.pop()
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "warning: --gbce_t has no effect: --loss=softmax does not use it",
        "warning: --seeds has no effect: try does not read it",
    ]


def test_ctrl_c_ends_with_status_130_and_a_line(settled, capsys):
    """The line says that the same command goes on; there is no traceback."""
    stopped = Command("try", "Try.", GROUPS, f"{__name__}:interrupted")
    with pytest.raises(SystemExit) as error:
        execute(stopped, [], "try")
    assert error.value.code == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_settings_that_the_student_refuses_are_told_before_the_body(settled):
    """No teachers are tuned for hours before a student that can't be trained."""
    with pytest.raises(UserError, match="--max_seq_len: found 1, expected at least 2"):
        execute(TRAIN, ["--student=bert4rec", "--max_seq_len=1"], "try")
    assert not CALLS


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_a_flagfile_says_what_it_reproduces_and_its_command_reads_it(path):
    """Its head has command, machine, time and figures, and all its flags still exist."""
    head = path.read_text().split("\n--")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.match(r"# \w", head)
    entries = dict(re.findall(r"^# (Command|Machine|Time|Figures):\s+(\S.*)$", head, re.MULTILINE))
    assert list(entries) == ["Command", "Machine", "Time", "Figures"]
    said = re.sub(r"\n#\s+", " ", head).split(" Machine:")[0]
    (words,) = re.findall(r"python -m experiments ([^\n]*?--flagfile=\S+)", said)
    name, *rest = shlex.split(words)
    assert rest[-1] == f"--flagfile={path.name}"
    topics = rest[:-1]
    assert topics == [] or topics[0] in NAMED[name].topics
    parsed = parse(rest[-1:], NAMED[name].groups)
    reporter = Reporter()
    call = Call(NAMED[name], (rest[-1],), parsed.configs, frozenset(), reporter, (), *topics)
    check(call)


def test_the_flagfiles_hold_what_was_chosen_for_one_data_set():
    """rd, rrd and unkd have their own weights in rivals.cfg, and all others have 20."""
    flags = ("--flagfile=rivals.cfg",)
    parsed = parse(flags, NAMED["study"].groups)
    call = Call(NAMED["study"], flags, parsed.configs, frozenset(), Reporter(), (), topic="rivals")
    weights = {
        variant.name: settings_from(configs).distill.distill_weight
        for variant, configs in study.parse_variants(call).items()
    }
    assert weights.pop("rd") == 10
    assert weights.pop("rrd") == 0.1
    assert weights.pop("unkd") == 30
    assert set(weights.values()) == {20}


def test_students_have_their_own_learning_rates_plain_and_distilled():
    """A distilled student is compared with a plain one of the same settings."""
    flags = ("--flagfile=students.cfg",)
    parsed = parse(flags, NAMED["study"].groups)
    call = Call(
        NAMED["study"], flags, parsed.configs, frozenset(), Reporter(), (), topic="students"
    )
    chosen = {"sasrec": 1e-3, "gru4rec": 1e-2, "bert4rec": 1e-3, "fm": 3e-3, "deepfm": 3e-3}
    chosen["lightgcn"] = 3e-3
    found = study.parse_variants(call)
    assert len(found) == 3 * len(chosen)
    for variant, configs in found.items():
        settings = settings_from(configs)
        assert settings.train.learning_rate == chosen[settings.student.student]
        assert settings.train.patience == (5 if settings.student.student == "deepfm" else 10)
        whole = settings.distill.teacher_history == "whole"
        assert whole == (variant.name == "lightgcn-prmkd")


def test_the_docs_list_the_flags_there_are():
    """docs/flags.md is exactly what the command in its head prints."""
    done = experiments("flags")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "flags.md").read_text()
    listed = []
    # Two commands may use one name, such as --model; within a command it means one thing.
    for section in done.stdout.split("\n## "):
        names = re.findall(r"^\| `--(\w+)=", section, re.MULTILINE)
        assert len(names) == len(set(names))
        listed += names
    assert set(listed) == {name for each in COMMANDS for name in names_of(each.groups)}


def test_train_has_few_enough_flags_to_be_read():
    """There are at most 90; what only code sets is declared with flag=False."""
    assert len(names_of(NAMED["train"].groups)) <= 90


def test_main_is_train():
    """The command of the paper's card still works under its old name."""
    done = subprocess.run(
        [sys.executable, "-m", "experiments.main", "--help"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m experiments.main [--flagfile=FILE]")
    assert config_of(parse([], NAMED["train"].groups).configs, RunConfig) == RunConfig()


def documented() -> list[str]:
    """Every command in an indented block of README and docs, on one line each."""
    # What they name exists where a user has installed it; tests of their own run them.
    own = {"own_student.md", "own_teacher.md"}
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text() for page in pages if page.name not in own)
    text = re.sub(r"\\\n\s*", "", text)
    return re.findall(r"^ {4,}.*?python -m experiments(?:\.main)? ([^&\n]+)", text, re.MULTILINE)


@pytest.mark.parametrize("line", documented())
def test_commands_in_the_docs_can_be_given(line, tmp_path):
    """Their commands, flags and topics all still exist."""
    # What a run has left, as the line before has it: some flags of `train`.
    left = tmp_path / "flags.cfg"
    left.write_text("--dataset=mine\n--teachers=unisrec-text,unisrec\n--seeds=0,1,2\n")
    line = line.replace("--flagfile=runs/mine/flags.cfg", f"--flagfile={left}")
    words = [word for word in shlex.split(line) if word != "..."]
    name = words.pop(0) if not words[0].startswith("-") else "train"
    topics = [words.pop(0)] if NAMED[name].topics else []
    parsed = parse(words, NAMED[name].groups)
    call = Call(NAMED[name], tuple(words), parsed.configs, frozenset(), Reporter(), (), *topics)
    check(call)
