"""The pages say what is there: links, code, commands and flags are those of the program."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.cli.flags import define, parse
from experiments.runs.pages import PLACES, fill_pages
from prmkd_jax.common.errors import UserError
from prmkd_jax.data.config import DataConfig
from prmkd_jax.data.synthetic import synthetic_dataset
from tests.packages import ROOT
from tests.pages import python_blocks

README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# The changelog names commands and flags that are gone.
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
OURS = ("prmkd_jax", "teachers_torch", "bridge", "experiments")
# Names that stand for a reader's own model, and a built-in one that is read alike.
STAND_INS = {"fading": "sasrec", "follows": "precomputed"}
# Flags that every command has, and words that stand for any flag.
OTHER_FLAGS = {"--help", "--flagfile", "--name", "--noname"}


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@pytest.fixture(scope="module")
def commands() -> dict:
    """The table of commands by name."""
    table = importlib.import_module("experiments.commands.table")
    return {command.name: command for command in table.COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_to_files_and_headings_that_exist(page):
    text = _without_code(page.read_text())
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\((\w+\.md)\)", index))


def test_the_readme_is_short_and_begins_with_the_two_commands():
    text = README.read_text()
    assert len(text.splitlines()) <= 190
    first, second, *_ = (line.strip() for line in text.splitlines() if line.startswith("    pip "))
    install = "pip install -r requirements.txt && python -m"
    assert first == f"{install} experiments.main --flagfile=demo.cfg"
    assert second == f"{install} pytest"


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_python_code_can_be_read_and_its_imports_exist(page):
    for code in _python(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert alias.name == "*" or hasattr(module, alias.name), (
                        f"{node.module} has no {alias.name}"
                    )


def test_the_readmes_code_trains_exports_and_recommends(tmp_path):
    """The code of serving.md runs after it, with the student that it has exported."""
    _write_data(tmp_path / "data" / "mine")
    serving = ROOT / "docs" / "serving.md"
    blocks = [*_python(README), *(_python(serving) if serving.exists() else [])]
    # serving.md speaks of the demo's student; here README's is at hand.
    example = "\n\n".join(blocks).replace("runs/demo/students/sasrec-prmkd-seed0", "runs/student")
    example = example.replace("home-i", "i")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()[:10]]
    assert all(re.fullmatch(r"i\d+", item) and float(score) for item, score in found)
    assert len({item for item, _ in found}) == 10


def test_ids_of_the_demo_that_pages_name_are_in_its_world():
    """They exist at the default size, which demo.cfg keeps, so a reader can type them."""
    known = set(synthetic_dataset(DataConfig()).item_ids)
    named = {item for page in CURRENT for item in re.findall(r"\b[a-z]+-i\d+\b", page.read_text())}
    assert len(named) >= 3
    assert named <= known


@pytest.mark.parametrize("page", CURRENT, ids=names(CURRENT))
def test_commands_exist_and_take_the_flags_given(page, commands):
    text = page.read_text()
    for line in [*_command_lines(text), *_short_commands(text, commands)]:
        _check_command(line, commands)


def test_a_command_without_its_program_is_read_too(commands):
    """A code span that only looks like one is passed by."""
    text = "`train --seeds=0\n  --refit` and `study rivals --nosuch=1`, `train`, `serve | train`"
    found = [*_short_commands(text, commands)]
    assert found == [
        "python -m experiments train --seeds=0 --refit",
        "python -m experiments study rivals --nosuch=1",
    ]
    _check_command(found[0], commands)
    with pytest.raises(pytest.fail.Exception, match="nosuch"):
        _check_command(found[1], commands)


@pytest.mark.parametrize("page", CURRENT, ids=names(CURRENT))
def test_flags_that_are_named_exist(page, commands):
    known = _known_flags(commands)
    text = _without_blocks(page.read_text())
    # Of `--a --b=c` in one code span, both; flags of pytest and of the tests' programs are theirs.
    spans = " ".join(
        span
        for span in re.findall(r"`([^`]+)`", text)
        if not re.match(r"python -m (tests|pytest)", span)
    )
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_]*", spans)) - OTHER_FLAGS
    # `--teacher_…` stands for all that begin so.
    unknown = {
        flag
        for flag in named
        if flag[2:] not in known
        and flag[2:].removeprefix("no") not in known
        and not (flag.endswith("_") and any(name.startswith(flag[2:]) for name in known))
    }
    assert not unknown


def test_flagfiles_that_are_named_exist():
    configs = {file.name for file in (ROOT / "experiments" / "configs").glob("*.cfg")}
    for page in CURRENT:
        named = set(re.findall(r"(?<![\w/>.-])([\w-]+\.cfg)\b", page.read_text()))
        assert named - {"flags.cfg"} <= configs, page.name


def test_the_architecture_pages_records_exist():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `((?:\w+\.)+)(\w+)` \|", page, re.MULTILINE)
    assert len(rows) > 20
    missing = [
        module + name
        for module, name in rows
        if not hasattr(importlib.import_module(module.rstrip(".")), name)
    ]
    assert not missing


def test_files_of_ours_that_pages_name_exist():
    for page in CURRENT:
        for path in re.findall(rf"`((?:tests|{'|'.join(OURS)})/[\w/.]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def _check_command(line: str, commands: dict) -> None:
    """Refuses an unknown command, topic or flag, and a value that a flag doesn't take."""
    words = [STAND_INS.get(word, word) for word in shlex.split(line)]
    where = words.index("-m")
    program, words = words[where + 1], words[where + 2 :]
    if program == "experiments.main":
        words = ["train", *words]
    else:
        assert program == "experiments", f"{line}: no such program"
    if not words or words[0] in ("--help", "<command>"):
        return
    name, *words = words
    assert name in commands, f"{line}: no such command"
    command = commands[name]
    if command.topics:
        topic, *words = words
        assert topic in command.topics, f"{line}: no such {name}"
    for own, built_in in STAND_INS.items():
        words = [re.sub(rf"\b{own}\b", built_in, word) for word in words]
    try:
        # A flagfile that a run left has no place here.
        parse([word for word in words if "/flags.cfg" not in word], command.groups)
    except UserError as error:
        pytest.fail(f"{line}: {error}")
    for word in words:
        if word.startswith("--grid="):
            varied = {part.partition("=")[0] for part in word[len("--grid=") :].split(";")}
            assert varied <= _known_flags({name: command}), line


def _command_lines(text: str) -> Iterator[str]:
    """Every command line of a page: in indented blocks, and in code spans."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        if re.match(r"(    |\t)", line):
            found = re.search(r"python -m experiments\b.*", line)
            if found:
                yield _before_the_shells(found[0])
    for span in re.findall(r"`(python -m experiments\b[^`]*)`", joined):
        yield _before_the_shells(" ".join(span.split()))


def _short_commands(text: str, commands: Iterable[str]) -> Iterator[str]:
    """Code spans that begin with a command's name and hold a flag, with their program."""
    for span in re.findall(r"`([^`]+)`", _without_blocks(text)):
        name, *rest = span.split()
        if name in commands and any(word.startswith("--") for word in rest):
            yield _before_the_shells(" ".join(["python -m experiments", name, *rest]))


def _before_the_shells(line: str) -> str:
    """A command without what the shell adds: a comment, a redirection, another command."""
    return re.split(r" [#>|&]", line)[0]


def _known_flags(commands: dict) -> set[str]:
    return {name for command in commands.values() for name in define(command.groups)}


def _python(page: Path) -> list[str]:
    return python_blocks(str(page.relative_to(ROOT)))


def _without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _without_code(text: str) -> str:
    text = _without_blocks(text)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def _anchors(page: Path) -> set[str]:
    """A page's headings as GitHub makes anchors of them."""
    text = _without_blocks(page.read_text())
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        kept = [
            letter
            for letter in heading.strip().lower()
            if letter in " -_" or unicodedata.category(letter)[0] in "LN"
        ]
        found.add("".join(kept).replace(" ", "-"))
    return found


def _write_data(folder: Path) -> None:
    """40 users with 6 of 30 items each, drawn at random, so that a training ends early."""
    folder.mkdir(parents=True)
    draws = np.random.default_rng(0).permuted(np.tile(np.arange(30), (40, 1)), axis=1)
    rows = [(f"u{user}", f"i{draws[user, step]}", step) for user in range(40) for step in range(6)]
    users, items, positions = zip(*rows, strict=True)
    pq.write_table(
        pa.table({"user_id": users, "item_id": items, "position": pa.array(positions, pa.int32())}),
        folder / "interactions.parquet",
    )
    ids = [f"i{item}" for item in range(30)]
    pq.write_table(
        pa.table({"item_id": ids, "title": [f"Item {name}" for name in ids]}),
        folder / "items.parquet",
    )


def test_what_is_made_of_records_is_up_to_date(tmp_path):
    """Filling the pages from their records once more changes none of them."""
    made, shown = 0, set()
    figures = ROOT / "docs" / "figures"
    shutil.copytree(figures, tmp_path / "figures")
    for page in PAGES:
        blocks = page.read_text().count("\n<!-- made of ")
        if not blocks:
            continue  # --fill refuses a page without any
        copy = tmp_path / page.name
        copy.write_text(page.read_text())
        # As Markdown has them, in brackets.
        shown |= set(re.findall(r"\(figures/(.+?)\)", copy.read_text()))
        made += blocks
        assert fill_pages([copy], ROOT / "docs" / "records") == [False], page.name
    # None that no block makes.
    assert {each.name for each in figures.iterdir()} == shown
    assert made >= 3


def test_no_kept_record_says_where_files_lay():
    """Folders of one machine concern no reader."""
    records = sorted((ROOT / "docs" / "records").glob("*.json"))
    assert records
    for record in records:
        settings = json.loads(record.read_text()).get("settings", {})
        assert not [name for name in PLACES if settings.get(name)], record
