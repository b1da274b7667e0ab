"""The words of the command line and of flagfiles, taken apart into names and values.

Three habits of absl are closed off here, because each hides a mistake: `--switch False` sets
True there, a leftover word is passed over, and a flagfile wins over flags that stand before
it. The first two are refused, and flags win over a flagfile that is named next to them,
whatever their order. In a flagfile one flag stands on a line, and a line that begins with `#`
or `//` is a comment.
"""

import difflib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.reading import open_regular

CONFIGS = Path(__file__).parents[1] / "configs"


MOST_FILES = 100
LONGEST_FILE = 2**20  # bytes


class Setting(NamedTuple):
    """One `name = value`, and where it was read: "" is the command line."""

    name: str
    value: str
    origin: str


def expand(
    lines: Iterable[tuple[Sequence[str], str]],
    known: flags.FlagValues,
    stack: tuple[Path, ...] = (),
    read: list[Path] | None = None,
) -> list[Setting]:
    """All settings of the lines and the flagfiles they name; the files' come first.

    Args:
        lines: words, and where they stand (put before the message of an error).
        known: the flags there are.
        stack: the flagfiles being read.
        read: all flagfiles so far, one that is named twice twice.

    Raises:
        UserError: something in them is no flag, or they name each other without end.
    """
    read = [] if read is None else read
    included, own = [], []
    for words, origin in lines:
        for name, value in _split(words, origin, known):
            if name == "flagfile":
                path = _find(value, origin, stack)
                read.append(path)
                if len(read) > MOST_FILES:
                    raise UserError(
                        f"{origin}--flagfile: found more than {MOST_FILES} flagfiles that name "
                        "each other, expected fewer"
                    )
                included += expand(_read(path, origin), known, (*stack, path), read)
            else:
                own.append(Setting(name, value, origin))
    return included + own


def _find(value: str, origin: str, stack: tuple[Path, ...]) -> Path:
    # os.path answers False where pathlib raises: an unknown ~user, a name that is too long.
    path = Path(os.path.expanduser(os.path.expandvars(value)))
    if not os.path.isfile(path) and path.name == value:
        path = CONFIGS / value
    if not os.path.isfile(path):
        raise UserError(
            f"{origin}--flagfile: found no file {value!r}, expected a path, or a name out of "
            f"{CONFIGS.parent.name}/{CONFIGS.name}: {list_configs()}"
        )
    if path.resolve() in [other.resolve() for other in stack]:
        raise UserError(f"{origin}--flagfile: found {value!r}, expected no file inside itself")
    return path


def _read(path: Path, origin: str) -> list[tuple[Sequence[str], str]]:
    """The words of every line that is neither empty nor a comment, and where it stands."""
    try:
        with open_regular(path) as stream:
            content = stream.read(LONGEST_FILE + 1)
        if len(content) > LONGEST_FILE:
            raise OSError(f"it has more than {LONGEST_FILE >> 20} MB")
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{origin}--flagfile: found {str(path)!r}, expected readable UTF-8 text ({error})"
        ) from None
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith(("#", "//")):
            # `--name value` is two words, but the value of `--name=a b` is one with its spaces.
            first = line.split(maxsplit=1)
            words = [line] if "=" in first[0] else first
            lines.append((words, f"{path}, line {number}: "))
    return lines


def _split(words: Sequence[str], origin: str, known: flags.FlagValues) -> Iterator[tuple[str, str]]:
    """Tells names from values: `--name=value`, `--name value`, `--switch`, `--noswitch`."""
    rest = deque(words)
    while rest:
        word = rest.popleft()
        if not word.startswith("--") or word == "--":
            raise UserError(
                f"{origin}found {word!r} outside any flag, expected --name=value "
                "(a list has commas and no spaces)"
            )
        name, equals, value = word[2:].partition("=")
        negated = name not in known and name.startswith("no") and _is_switch(name[2:], known)
        name = name[2:] if negated else name
        if name not in known:
            raise UserError(f"{origin}{_unknown(name, known)}")
        if negated and equals:
            raise UserError(f"{origin}--no{name}: found a value, {value!r}, expected none")
        if _is_switch(name, known) and not equals:
            if rest and not rest[0].startswith("--"):
                raise UserError(
                    f"{origin}--{name}: found {rest[0]!r} after a switch, expected "
                    f"--{name}=true, --{name}=false, or --{name} or --no{name} alone"
                )
            value = "false" if negated else "true"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{origin}--{name}: found no value, expected --{name}=value")
            value = rest.popleft()
            if value.startswith("="):
                raise UserError(
                    f"{origin}--{name}: found a blank before {value!r}, expected --{name}=value"
                )
        yield name, value


def _is_switch(name: str, known: flags.FlagValues) -> bool:
    return name in known and known[name].boolean


def _unknown(name: str, known: flags.FlagValues) -> str:
    if name == "help":
        return "found --help, expected it on the command line, after the command's name"
    close = difflib.get_close_matches(name, [*known, "help"])
    if close:
        return f"unknown flag --{name}, did you mean {' or '.join(f'--{c}' for c in close)}?"
    return f"unknown flag --{name}, --help lists those there are"


def list_configs() -> str:
    """The flagfiles that come with the project, for people to read."""
    return ", ".join(sorted(path.name for path in CONFIGS.glob("*.cfg")))
