import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.cli import arguments, command, flags, help
from prmkd_jax.common.errors import UserError
from prmkd_jax.common.options import Group, option, validate
from prmkd_jax.data.config import DataConfig
from prmkd_jax.distill.config import DistillConfig
from prmkd_jax.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Toy:
    """One option of every type a flag can have."""

    text: str = option("a b", "Some text.")
    whole: int = option(3, "A count.", low=0, high=9)
    real: float = option(0.25, "A share.", above=0, below=1)
    switch: bool = option(True, "On or off.")
    maybe_real: float | None = option(None, "A threshold.", low=0)
    maybe_text: str | None = option("x", "A name.")
    wholes: tuple[int, ...] = option((0,), "Seeds.", low=0, repeats=True)
    reals: tuple[float, ...] = option((), "Grid.", high=1, repeats=True)
    texts: tuple[str, ...] = option(("a",), "Kinds.", choices=("a", "b"), repeats=True)
    internal: int = 7

    def __post_init__(self):
        validate(self)
        if self.whole == 8 and self.switch:
            raise UserError("--whole: found 8, expected another value beside --switch=True")


@dataclasses.dataclass(frozen=True)
class TeacherToy(Toy):
    """The same options for a teacher."""


GROUPS = (Group("Toy", "", Toy), Group("Teacher", "unisrec_", TeacherToy))
TOYS_COMMAND = command.Command("toys", "Play.", GROUPS, "no.such.module:run")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, where flagfiles are looked up first."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def toy(*argv: str) -> Toy:
    return flags.config_of(flags.parse(argv, GROUPS).configs, Toy)


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        flags.parse(argv, GROUPS)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_arguments_give_the_dataclass_defaults():
    """No default changes on its way through absl."""
    groups = [Group(c.__name__, "", c) for c in (DataConfig, DistillConfig, TrainConfig)]
    parsed = flags.parse([], groups)
    assert list(parsed.configs.values()) == [DataConfig(), DistillConfig(), TrainConfig()]
    assert parsed.explicit == frozenset()


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("--text=c # d=e", "text", "c # d=e"),
        ("--text=", "text", ""),
        ("--whole=9", "whole", 9),
        ("--real=1e-3", "real", 0.001),
        ("--switch", "switch", True),
        ("--noswitch", "switch", False),
        ("--switch=False", "switch", False),
        ("--switch=0", "switch", False),
        ("--switch=true", "switch", True),
        ("--maybe_real=2", "maybe_real", 2.0),
        ("--maybe_real=None", "maybe_real", None),
        ("--maybe_text=none", "maybe_text", None),
        ("--wholes=0,1,2", "wholes", (0, 1, 2)),
        ("--wholes=4, 5", "wholes", (4, 5)),
        ("--wholes=", "wholes", ()),
        ("--reals=0.5,-1e-2", "reals", (0.5, -0.01)),
        ("--texts=b,a", "texts", ("b", "a")),
    ],
)
def test_every_type_is_read(argument, field, value):
    """A value keeps its own type and leaves the other fields as they are."""
    expected = dataclasses.replace(Toy(), **{field: value})
    assert toy(argument) == expected
    assert type(getattr(toy(argument), field)) is type(value)


def test_prefix_reaches_only_its_own_group():
    """`--unisrec_whole` doesn't set the student's `whole`, nor the other way round."""
    parsed = flags.parse(["--unisrec_whole", "5", "--whole=4"], GROUPS)
    assert parsed.configs == {Toy: Toy(whole=4), TeacherToy: TeacherToy(whole=5)}
    assert parsed.explicit == {"unisrec_whole", "whole"}


def test_parsing_twice_starts_afresh():
    """No flag's value is kept from one parse to the next."""
    assert toy("--whole=4").whole == 4
    assert toy().whole == 3


def test_last_value_wins():
    """Of a repeated flag or switch, only the user's last word counts."""
    assert toy("--whole=4", "--noswitch", "--whole=5", "--switch").whole == 5
    assert toy("--noswitch", "--switch").switch


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("--whole=x", ["--whole:", "'x'", "a whole number, at least 0, at most 9"]),
        ("--whole=1.5", ["--whole:", "'1.5'"]),
        ("--whole=10", ["--whole:", "'10'", "at most 9"]),
        ("--whole=", ["--whole:", "''"]),
        ("--real=1", ["--real:", "'1'", "a number, above 0, below 1"]),
        ("--real=nan", ["--real:", "'nan'"]),
        ("--maybe_real=inf", ["--maybe_real:", "'inf'", "or none"]),
        ("--switch=maybe", ["--switch:", "'maybe'", "true or false"]),
        ("--wholes=1,,2", ["--wholes:", "'1,,2'", "separated by commas", "whole number"]),
        ("--wholes=1,-2", ["--wholes:", "'1,-2'", "at least 0"]),
        ("--texts=a,c", ["--texts:", "'a,c'", "each one of a, b"]),
        ("--texts=none", ["--texts:", "'none'"]),
        ("--text=a\nb", ["--text:", r"'a\nb'"]),
        ("--text=a\u2028b", ["--text:"]),
        ("--unisrec_whole=-1", ["--unisrec_whole:", "'-1'", "at least 0"]),
    ],
)
def test_impossible_value_names_flag_value_and_expectation(argument, parts):
    """The message says which type, bounds or choices the flag accepts."""
    message = refusal(argument)
    assert all(part in message for part in parts), message


@dataclasses.dataclass(frozen=True)
class Texts:
    """The kinds of text, and what isn't text."""

    text: str = option("", "Some text.")
    filled: str = option("x", "Some text.", filled=True)
    maybe: str | None = option(None, "Some text.")
    names: tuple[str, ...] = option((), "Names.")
    path: str = option("", "A file.", path=True)
    kinds: tuple[str, ...] = option(("a",), "Kinds.", choices=("a", "b"))
    whole: int = option(3, "A count.", low=0, high=9)


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("text", "text of one line"),
        ("maybe", "text of one line, or none"),
        ("names", "values separated by commas, each text of one line"),
        ("filled", "text of one line"),
        ("path", "a path of one line"),
        ("kinds", "values separated by commas, each one of a, b"),
        ("whole", "a whole number, at least 0, at most 9"),
    ],
)
def test_text_of_several_lines_is_told_by_its_lines(flag, wanted):
    """The message asks for one line, not for text where text was found."""
    with pytest.raises(UserError) as caught:
        flags.parse([f"--{flag}=MIT\nand more"], (Group("Texts", "", Texts),))
    assert str(caught.value) == f"--{flag}: found 'MIT\\nand more', expected {wanted}"


def test_unknown_flag_is_refused_with_the_nearest_name():
    """A misspelt flag is never passed over, which would leave the default."""
    assert refusal("--wholee=3").endswith(
        "unknown flag --wholee, did you mean --whole or --wholes?"
    )
    assert "did you mean --unisrec_switch" in refusal("--unisrec_swich")
    assert "did you mean --flagfile?" in refusal("--flagfil=x.cfg")
    assert refusal("--zzz") == "unknown flag --zzz, --help lists those there are"
    assert "unknown flag --internal" in refusal("--internal=3")
    assert "unknown flag --undefok" in refusal("--undefok=zzz", "--zzz=1")
    assert "unknown flag --notext" in refusal("--notext")


def test_switch_followed_by_a_word_is_refused():
    """absl alone would read `--switch False` as True and drop the word (abseil-py#84)."""
    message = refusal("--switch", "False")
    assert message.startswith("--switch: found 'False' after a switch")
    assert "--switch=false" in message
    assert "--switch: found 'true'" in refusal("--noswitch", "true")
    assert "--noswitch: found a value, 'true'" in refusal("--noswitch=true")


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (("train",), "'train'"),
        (("--wholes", "0", "1"), "'1'"),
        (("-whole=3",), "'-whole=3'"),
        (("--", "--whole=3"), "'--'"),
        (("",), "''"),
    ],
)
def test_leftover_word_is_refused(argv, found):
    """absl alone would stop at the first such word and never read the flags after it."""
    assert refusal(*argv).startswith(f"found {found} outside any flag")


def test_missing_value_is_refused():
    """`--text --noswitch` doesn't take the second flag for the first one's text."""
    assert refusal("--text", "--noswitch").startswith("--text: found no value")
    assert refusal("--whole").startswith("--whole: found no value")
    assert toy("--reals", "-1").reals == (-1.0,)


def test_checks_between_fields_name_the_prefixed_flags():
    """The message sends the user to the right flag, although a configuration knows no prefix."""
    assert refusal("--whole=8") == "--whole: found 8, expected another value beside --switch=True"
    assert refusal("--unisrec_whole=8") == (
        "--unisrec_whole: found 8, expected another value beside --unisrec_switch=True"
    )


def test_flags_win_over_the_flagfile_in_any_order(folder):
    """absl alone would let a flagfile that stands last win over the command line."""
    (folder / "a.cfg").write_text("--whole=5\n--real=0.5\n")
    for argv in (["--flagfile=a.cfg", "--whole=6"], ["--whole=6", "--flagfile", "a.cfg"]):
        parsed = flags.parse(argv, GROUPS)
        assert parsed.configs[Toy] == Toy(whole=6, real=0.5)
        assert parsed.explicit == {"whole"}


def test_flagfile_syntax(folder):
    """Comments, blank lines, spaces and a byte order mark are read as people use them."""
    (folder / "a.cfg").write_bytes(
        b"\xef\xbb\xbf# comment\r\n\r\n   // --whole=1\r\n  # --whole=2\r\n --whole 4 \r\n"
        b"--noswitch\r\n--text=two words = one value\r\n--wholes 1, 2\r\n"
    )
    assert toy("--flagfile=a.cfg") == Toy(
        whole=4, switch=False, text="two words = one value", wholes=(1, 2)
    )


def test_nested_flagfiles(folder):
    """A file's own lines win over the files it names; of two files the later wins."""
    (folder / "base.cfg").write_text("--whole=1\n--real=0.1\n--text=base\n")
    (folder / "a.cfg").write_text("--real=0.2\n--flagfile=base.cfg\n")
    (folder / "b.cfg").write_text("--text=b\n")
    assert toy("--flagfile=a.cfg") == Toy(whole=1, real=0.2, text="base")
    assert toy("--flagfile=a.cfg", "--flagfile=b.cfg").text == "b"
    assert toy("--flagfile=b.cfg", "--flagfile=a.cfg").text == "base"
    (folder / "base.cfg").write_text("--flagfile=a.cfg\n")
    assert "base.cfg, line 1: --flagfile: found 'a.cfg'" in refusal("--flagfile=a.cfg")


def test_bare_flagfile_name_is_looked_up_in_configs(folder, monkeypatch):
    """The README's `--flagfile=demo.cfg` works from any working directory."""
    monkeypatch.setattr(arguments, "CONFIGS", folder / "configs")
    (folder / "configs").mkdir()
    (folder / "configs" / "demo.cfg").write_text("--whole=1\n")
    assert toy("--flagfile=demo.cfg").whole == 1
    (folder / "demo.cfg").write_text("--whole=2\n")
    assert toy("--flagfile=demo.cfg").whole == 2
    message = refusal("--flagfile=none.cfg")
    assert message.startswith("--flagfile: found no file 'none.cfg'")
    assert message.endswith("demo.cfg")
    assert "found no file './none.cfg'" in refusal("--flagfile=./none.cfg")
    assert "found no file ''" in refusal("--flagfile=")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--whole=x", "--whole: found 'x', expected a whole number"),
        ("--wholly=1", "unknown flag --wholly"),
        ("--switch False", "--switch: found 'False' after a switch"),
        ("whole=1", "found 'whole=1' outside any flag"),
        ("--text", "--text: found no value"),
        ("--text = words", "--text: found a blank before '= words', expected --text=value"),
        ("--flagfile=b.cfg", "--flagfile: found no file 'b.cfg'"),
    ],
)
def test_mistake_in_a_flagfile_names_file_and_line(folder, line, message):
    """The message begins with them, such as `a.cfg, line 3`."""
    (folder / "a.cfg").write_text(f"# comment\n\n{line}\n")
    assert refusal("--flagfile=a.cfg").startswith(f"a.cfg, line 3: {message}")


def test_flagfile_that_is_no_text_is_refused(folder):
    """A binary file ends in one line, not in a decoding traceback."""
    (folder / "a.cfg").write_bytes(b"\xff\xfe\x00")
    assert "--flagfile: found 'a.cfg', expected readable UTF-8 text" in refusal("--flagfile=a.cfg")


LINES = st.text(st.characters(exclude_categories=["C", "Z"])).filter(lambda s: s.lower() != "none")
# Of a size that float32 has; other numbers are refused.
SMALLEST = 2.0**-126


def reals(low, high):
    return st.floats(low, high, exclude_max=high == 1).filter(
        lambda value: value == 0 or abs(value) >= SMALLEST
    )


TOY_VALUES = {
    "text": st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8),
    "whole": st.integers(0, 7),
    "real": reals(SMALLEST, 1),
    "switch": st.booleans(),
    "maybe_real": st.none() | reals(0, 1e30),
    "maybe_text": st.none() | LINES,
    "wholes": st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple),
    "reals": st.lists(reals(-1e30, 1), max_size=3).map(tuple),
    "texts": st.lists(st.sampled_from("ab"), max_size=3).map(tuple),
}


@given(st.builds(Toy, **TOY_VALUES), st.builds(TeacherToy, **TOY_VALUES))
def test_as_flagfile_gives_the_same_run_back(tmp_path_factory, student, teacher):
    """A run's own flags.cfg keeps every value to the last digit."""
    path = tmp_path_factory.mktemp("run") / "flags.cfg"
    path.write_text(
        flags.as_flagfile(GROUPS, {Toy: student, TeacherToy: teacher}), encoding="utf-8"
    )
    parsed = flags.parse([f"--flagfile={path}"], GROUPS)
    assert parsed.configs == {Toy: student, TeacherToy: teacher}
    assert parsed.explicit == frozenset()


def test_as_dict_is_json_by_flag_name():
    """config.json names each value by its flag, prefix included."""
    record = flags.as_dict(
        GROUPS, {TeacherToy: TeacherToy(maybe_text=None), Toy: Toy(wholes=(1, 2))}
    )
    assert json.loads(json.dumps(record)) == record
    assert record["wholes"] == [1, 2]
    assert record["unisrec_maybe_text"] is None
    assert "internal" not in record
    assert len(record) == 18


def test_help_lists_every_flag_by_topic(capsys):
    """`--help` names each flag, its default and what it accepts, even beside a wrong value."""
    command.execute(TOYS_COMMAND, ["--whole=x", "--help"], "prog")
    text = capsys.readouterr().out
    assert text.startswith("Usage: prog ")
    assert text.index("\nToy\n") < text.index("--whole=3") < text.index("\nTeacher\n")
    assert text.index("\nTeacher\n") < text.index("--unisrec_whole=3")
    assert "--flagfile=FILE" in text
    assert "--wholes=0\n      Seeds. Values separated by commas, each a whole number" in text
    assert "--switch=true\n" in text
    assert "--maybe_real=none\n" in text
    assert "internal" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert len(re.findall(r"^  --", text, re.MULTILINE)) == 18 + 2


def test_unusable_annotation_is_a_bug_not_a_user_error():
    """A field whose type no flag can hold fails when flags are defined and isn't dropped."""

    @dataclasses.dataclass(frozen=True)
    class Wrong:
        root: complex = option(1j, "No flag.")

    with pytest.raises(TypeError, match="no flag can hold"):
        flags.define([Group("Wrong", "", Wrong)])


def test_a_text_that_no_flagfile_can_repeat_is_refused():
    """It is refused at the start, not by a UnicodeEncodeError when flags.cfg is written."""
    with pytest.raises(UserError, match=r"--text: found 'a\\udcff', expected text of UTF-8"):
        toy(os.fsdecode(b"--text=a\xff"))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a\nb\x1b[2J.npy: found no array"), r"a\nb\x1b[2J.npy: found no array"),
        (FileNotFoundError(2, "No such file", "a\nb"), "[Errno 2] No such file: 'a\\nb'"),
        (
            MemoryError("Unable to allocate 9. TiB"),
            "found too little memory (Unable to allocate 9. TiB), expected more, or smaller sizes",
        ),
    ],
)
def test_whatever_a_file_is_called_a_message_is_one_line(error, line, monkeypatch, capsys):
    """A name can't clear the terminal, and no part of it looks like another message."""
    monkeypatch.setattr(sys, "argv", ["prmkd"])

    def main(_):
        raise error

    with pytest.raises(SystemExit) as ended:
        command.run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_run_command_ends_a_user_error_in_one_line_and_status_2(monkeypatch, capsys):
    """A mistake shows no traceback, and a bug keeps its own."""
    monkeypatch.setattr("sys.argv", ["prog", "--whole=x"])

    def main(argv):
        flags.parse(argv, GROUPS)

    with pytest.raises(SystemExit) as caught:
        command.run_command(main)
    assert caught.value.code == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert re.fullmatch(r"error: --whole: found 'x', expected [^\n]+\n", streams.err)

    def no_folder(argv):
        raise NotADirectoryError(20, "Not a\ndirectory", "runs")

    with pytest.raises(SystemExit) as caught:
        command.run_command(no_folder)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: [Errno 20] Not a directory: 'runs'\n"

    def bug(argv):
        raise KeyError(argv[0])

    with pytest.raises(KeyError):
        command.run_command(bug)


def test_reader_that_stops_reading_gets_no_traceback(tmp_path):
    """This holds for `--help | head`, which closes the pipe while the text is printed."""
    script = tmp_path / "command.py"
    script.write_text(
        "from experiments.cli.command import run_command\n"
        "from experiments.main import main\n"
        "run_command(main)\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, str(script), "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(flags.__file__).parents[2])},
        )
    assert done.stderr == ""
    assert done.returncode == 1


@dataclasses.dataclass(frozen=True)
class Places:
    """Paths, and a constant of Python's."""

    folder: str = option("runs", "A folder.", filled=True, path=True)
    optional: str = option("", "A file, or none.", path=True)
    several: tuple[str, ...] = option((), "Files.", path=True)
    made: str = option("", "A folder that is there or is made.", path="folder")
    written: str = option("", "A file that is written.", path="file")
    constant: int = option(7, "A constant.", low=0, flag=False)

    def __post_init__(self):
        validate(self)


PLACES = (Group("Places", "", Places),)


def places(*argv: str) -> Places:
    return flags.config_of(flags.parse(argv, PLACES).configs, Places)


def test_paths_are_expanded_as_a_shell_would(monkeypatch):
    """No shell expands `--folder=~/runs`, and still no folder named `~` is meant."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    assert places("--folder=~/runs").folder == "/home/me/runs"
    assert places("--folder=$DATA/a", "--optional=${DATA}b") == Places("/data/a", "/datab")
    assert places("--several=~/a,$DATA/*.csv").several == ("/home/me/a", "/data/*.csv")
    assert places("--folder=a~b").folder == "a~b"
    assert places("--optional=").optional == ""


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--folder=", "--folder: found '', expected a path, not empty"),
        ("--folder=a\0b", "--folder: found 'a\\x00b', expected a path"),
        ("--optional=\0", "--optional: found '\\x00', expected a path"),
        ("--folder=$NO_SUCH_THING/a", "--folder: found '$NO_SUCH_THING/a', expected a path: $NO_"),
        ("--folder=~no-such-user/a", "--folder: found '~no-such-user/a', expected a path: there"),
        ("--folder='a b'", "--folder: found \"'a b'\", expected a path without quotes"),
        ('--several=a,"b"', "--several: found '\"b\"', expected a path without quotes"),
        ("--folder=a  # mine", "--folder: found 'a  # mine', expected a path without a comment"),
        ("--several=a,b\t// mine", "--several: found 'b\\t// mine', expected a path without a com"),
        ("--several=a,$NO_SUCH_THING/a", "--several: found '$NO_SUCH_THING/a', expected a path: $"),
    ],
)
def test_paths_that_name_nothing_are_refused(argument, message):
    """No result goes to the working directory by mistake, and there is no traceback."""
    with pytest.raises(UserError) as caught:
        places(argument)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("flag", "path", "found"),
    [
        ("made", "file", "the file {}/file, expected a folder"),
        ("made", "file/below/it", "the file {}/file, expected a folder"),
        ("made", "gone", "a link to nothing {}/gone, expected a folder"),
        ("written", "folder", "the folder {}/folder, expected a file"),
        ("written", "file/a.json", "the file {}/file, expected a folder"),
    ],
)
def test_what_stands_in_the_way_of_a_path_is_told_before_anything_is_done(
    tmp_path, flag, path, found
):
    """One line names the file or link in the way, instead of a later `[Errno 17] File exists`."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError) as caught:
        places(f"--{flag}={tmp_path / path}")
    assert str(caught.value) == f"--{flag}: found {found.format(tmp_path)}"


def test_paths_that_can_be_made_are_let_through(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for path in ("folder", "link", "new/and/below", "folder/new"):
        assert places(f"--made={tmp_path / path}").made == str(tmp_path / path)
    for path in ("a.json", "new/a.json", "folder/a.json", "link/a.json"):
        assert places(f"--written={tmp_path / path}").written == str(tmp_path / path)
    monkeypatch.chdir(tmp_path)
    assert places("--made=runs", "--written=a.json").written == "a.json"


def test_a_constant_has_no_flag_but_is_recorded():
    """The command line refuses it, --help leaves it out, and the run's record has it."""
    with pytest.raises(UserError, match="unknown flag --constant"):
        places("--constant=3")
    assert "constant" not in help.flags_text(PLACES, "")
    assert "constant" not in flags.as_flagfile(PLACES, {Places: Places()})
    assert flags.as_dict(PLACES, {Places: Places(constant=3)})["constant"] == 3


def test_two_groups_of_one_dataclass_are_a_bug():
    """No group's values can replace another group's configuration."""
    twice = [Group("A", "a_", Toy), Group("B", "b_", Toy)]
    with pytest.raises(TypeError, match="same configuration"):
        flags.define(twice)
    with pytest.raises(TypeError, match="no group of flags has Places"):
        flags.config_of(flags.parse([], GROUPS).configs, Places)
