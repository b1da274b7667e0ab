"""The one frame that every command runs in.

Read the flags ▸ settle memory and threads ▸ import the body ▸ check the settings ▸ warn of flags
that nothing reads ▸ run. A user's mistake ends in one line and status 2, Ctrl-C in status 130.
Until `settle` has spoken nothing may import jax or torch, so a command names its body instead of
importing it.
"""

import contextlib
import dataclasses
import difflib
import errno
import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bridge.program_cache import remove_damaged
from bridge.runtime import settle
from experiments.cli.flags import Config, config_of, parse
from experiments.cli.help import commands_text, flags_text
from experiments.cli.interrupt import interruptible
from experiments.cli.settings import RunConfig, Settings, check_settings, settings_from
from experiments.cli.streams import open_streams
from experiments.cli.unread import warnings
from prmkd_jax.common.errors import UserError, first_line, printable, shortened
from prmkd_jax.common.options import Group

if TYPE_CHECKING:  # rich is slow to import, and --help needs none of it
    from experiments.cli.console import Reporter

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell's own commands."""
# Of `prmkd_jax.train.processes`, which imports JAX.
_PROCESSES = "PRMKD_PROCESSES"
_VARIABLES = {"--cache_dir": "PRMKD_CACHE_DIR", "--data_dir": "PRMKD_DATA_DIR"}
"""Flag → the variable that it has its default from."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command, as data.

    Attributes:
        name: the word on the command line.
        summary: one line for the list of commands, which ends with a full stop.
        groups: the groups of the command's flags.
        body: "module:function" of the function that takes the `Call`.
        variations: "module:function" of a function that takes the `Call` and gives the settings
            of every run that the command consists of; "" where that is the call's own.
        completed: "module:function" of a function that takes the `Call` and gives it with what
            flags that were not given follow from; "" where they have their defaults.
        topics: further words that may follow the name, and "module:object" of what each means;
            where there are any, one must be given.
        ignores: names of flags that are accepted, so that a flagfile serves several commands,
            but never read; `unread.STUDENT_START` for one entry of `--init`.
        reads: "module:function" of a function that takes the `Call` and gives the names of flags
            that the command reads whatever its settings say; "" where there are none.
        interrupted: the message after Ctrl-C.
        together: whether several processes may carry it out together (`$PRMKD_PROCESSES`).
        computes: whether it needs JAX.
    """

    name: str
    summary: str
    groups: tuple[Group, ...]
    body: str
    variations: str = ""
    completed: str = ""
    topics: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignores: frozenset[str] = frozenset()
    reads: str = ""
    interrupted: str = "interrupted; the same command goes on from here"
    together: bool = False
    computes: bool = True

    @property
    def usage(self) -> str:
        """The name, and the further word if one is needed."""
        return f"{self.name} <{'|'.join(self.topics)}>" if self.topics else self.name


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of a command: what its body gets.

    Attributes:
        command: the command that is called.
        argv: the flags as given, without the command's name and topic.
        configs: every group's dataclass → its configuration.
        explicit: names of the flags given on the command line itself, not by a flagfile.
        reporter: shows progress and warnings.
        runtime: lines about memory and threads, for a log.
        topic: the further word; "" for a command without topics.
        given: names of the flags given on the command line or by a flagfile.
    """

    command: Command
    argv: tuple[str, ...]
    configs: Mapping[type, object]
    explicit: frozenset[str]
    reporter: "Reporter"
    runtime: tuple[str, ...]
    topic: str = ""
    given: frozenset[str] = frozenset()

    @functools.cached_property
    def settings(self) -> Settings:
        """The configurations that all training commands share, as one value."""
        return settings_from(self.configs)

    def config(self, kind: type[Config]) -> Config:
        """The configuration of one of the command's groups."""
        return config_of(self.configs, kind)


def dispatch(argv: Sequence[str], commands: Sequence[Command], program: str) -> None:
    """Runs the command that the first word names; `--help` lists all of them.

    Args:
        argv: the arguments, without the program's name.
        commands: the table.
        program: how the program is called, for `--help`.

    Raises:
        UserError: there is no such command, or as its flags and its body.
    """
    named = {command.name: command for command in commands}
    if not argv:
        raise UserError(f"found no command, expected one of {', '.join(named)}")
    name, *rest = argv
    if name in ("--help", "-h"):
        print(commands_text(program, [(each.name, each.summary) for each in commands]))
        return
    if name not in named:
        raise UserError(f"found {name!r}, expected {_nearest(name, 'command', tuple(named))}")
    execute(named[name], rest, f"{program} {name}")


def execute(command: Command, argv: Sequence[str], program: str) -> None:
    """Runs one command.

    Args:
        command: the command to execute.
        argv: the words after its name.
        program: the program's name, for `--help`.

    Raises:
        UserError: a mistake in the flags, or one that the body finds.
    """
    if "--help" in argv or "-h" in argv:
        print(_help(command, program), flush=True)
        return
    topic = ""
    if command.topics:
        topic, argv = _split_topic(command, argv)
    try:
        _carry_out(command, argv, topic)
    except UserError as error:
        raise _naming_variable(error, argv) from error


def _carry_out(command: Command, argv: Sequence[str], topic: str) -> None:
    """Reads the flags, settles the runtime, checks the settings, runs the body."""
    parsed = parse(argv, command.groups)
    _require_utf8(Path.cwd())
    # Where flags that were not given follow from something, they are judged when they have.
    if RunConfig in parsed.configs and not command.completed:
        settings_from(parsed.configs)  # a mistake is reported before jax and torch are imported
    programs = compiled_programs(parsed.configs)
    if programs is not None:
        remove_damaged(programs)
    runtime = settle(compilation_cache=programs)
    try:
        from experiments.cli.console import Reporter

        call = Call(
            command=command,
            argv=tuple(argv),
            configs=parsed.configs,
            explicit=parsed.explicit,
            reporter=Reporter(),
            runtime=tuple(runtime.lines()),
            topic=topic,
            given=parsed.given,
        )
        if command.computes:
            _ask_jax(runtime.chosen, lambda: importlib.import_module("jax"))
        body = resolve(command.body)
        with _processes(call), call.reporter.listening():
            if command.computes:
                _ask_jax(runtime.chosen, lambda: importlib.import_module("jax").default_backend())
            if command.completed:
                call = resolve(command.completed)(call)
            check(call)
            body(call)
    except KeyboardInterrupt:
        print(command.interrupted, file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None


def _naming_variable(error: UserError, argv: Sequence[str]) -> UserError:
    """The error, by the variable that a flag's value is from where nobody gave the flag."""
    flag, colon, rest = str(error).partition(":")
    found = os.environ.get(_VARIABLES.get(flag, ""))
    if not found or found not in rest or any(word.startswith(flag) for word in argv):
        return error
    return UserError(f"${_VARIABLES[flag]} ({flag}){colon}{rest}")


def _ask_jax(chosen: Collection[str], ask: Callable[[], object]) -> None:
    """Turns what JAX says of a value in the user's environment into a line.

    Args:
        chosen: variables that aren't the user's. If there are no others nothing is asked: JAX
            starts when it is needed.
        ask: makes JAX read them.

    Raises:
        UserError: naming the variables.
    """
    own = [name for name in os.environ if name.startswith("JAX_") and name not in chosen]
    if not own:
        return
    try:
        ask()
    except (AssertionError, RuntimeError, ValueError) as error:
        found = ", ".join(f"${name}={shortened(os.environ[name])!r}" for name in sorted(own))
        why = shortened(first_line(error)) or "no such platform here"
        raise UserError(
            f"{found}: found that JAX can't start with that ({why}), expected values that it takes "
            "on this machine"
        ) from error


def _processes(call: Call) -> contextlib.AbstractContextManager[None]:
    """Joins the other processes, if the environment names some.

    Raises:
        UserError: the command trains, but in one process alone.
    """
    if RunConfig not in call.configs:
        return contextlib.nullcontext()
    if not call.command.together and (found := os.environ.get(_PROCESSES, "")) not in ("", "1"):
        raise UserError(
            f"${_PROCESSES}: found {found[:60]!r} with {call.command.name}, which one process "
            "carries out, expected none"
        )
    return resolve("prmkd_jax.train.processes:together")()


def _require_utf8(here: Path) -> None:
    """Refuses a folder whose name JAX and Orbax would end in a traceback on, after the work."""
    try:
        str(here).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the current folder: found {str(here)!r}, expected a name of UTF-8: start the command "
            "elsewhere"
        ) from None


def compiled_programs(configs: Mapping[type, object]) -> Path | None:
    """Where JAX keeps compiled programs for the next process: in the cache.

    A command that trains makes the cache. Others, such as `serve`, use one that is there, and
    have no such folder where none is.
    """
    named = (getattr(config, "cache_dir", "") for config in configs.values())
    folder = next(filter(None, named), os.environ.get("PRMKD_CACHE_DIR") or "cache")
    if RunConfig in configs or Path(folder).is_dir():
        return Path(folder) / "jax"
    return None


def check(call: Call) -> None:
    """Checks the settings of all runs of a call, and warns of flags that none of them reads.

    Raises:
        UserError: settings that don't fit together.
    """
    if RunConfig not in call.configs:
        return
    command = call.command
    runs = resolve(command.variations)(call) if command.variations else [call.settings]
    for settings in runs:
        check_settings(settings)
    reads = resolve(command.reads)(call) if command.reads else frozenset()
    for line in warnings(runs, call.explicit, command.name, command.ignores, reads):
        call.reporter.warn(line)


def resolve(path: str) -> Any:
    """Imports what "module:object" names.

    Modules stay: looking for garbage among them is a sixth of the time that JAX and PyTorch take.
    """
    module, _, name = path.partition(":")
    with _no_garbage_collected():
        return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def _no_garbage_collected() -> Iterator[None]:
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def run_command(main: Callable[[Sequence[str]], None]) -> None:
    """Runs `main` on the command line; a `UserError` ends in one line and status 2.

    So does an error of the system, such as a full disk. Ctrl-C ends in one line and status 130.
    """
    open_streams()
    try:
        with interruptible():
            main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except BrokenPipeError:
        # `--help | head` is no bug; stdout is flushed once more at exit, so it must lead somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        # A folder that is a file, no permission, no room: nothing that a traceback explains.
        hint = " (make room; the same command goes on)" if error.errno in _NO_ROOM else ""
        _fail(" ".join(str(error).split()) + hint)
    except MemoryError as error:
        _fail(f"found too little memory ({first_line(error)}), expected more, or smaller sizes")
    except KeyboardInterrupt:
        # Outside of a command's body, so nothing has been written yet.
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None


def _fail(message: str) -> NoReturn:
    print(f"error: {printable(message)}", file=sys.stderr)
    raise SystemExit(2)


def _help(command: Command, program: str) -> str:
    word = f" <{'|'.join(command.topics)}>" if command.topics else ""
    usage = f"Usage: {program}{word} [--flagfile=FILE] [--name=value ...]\n\n{command.summary}"
    read = [
        group
        for group in command.groups
        if not {group.prefix + name for name in _names(group)} <= command.ignores
    ]
    return flags_text(read, usage)


def _names(group: Group) -> list[str]:
    return [field.name for field in dataclasses.fields(group.config)]


def _split_topic(command: Command, argv: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The word that follows the command's name, and the rest."""
    if not argv or argv[0].startswith("-"):
        raise UserError(
            f"{command.name}: found no {command.name}, expected one of {', '.join(command.topics)}"
        )
    if argv[0] not in command.topics:
        nearest = _nearest(argv[0], command.name, tuple(command.topics))
        raise UserError(f"{command.name}: found {argv[0]!r}, expected {nearest}")
    return argv[0], argv[1:]


def _nearest(word: str, what: str, known: Sequence[str]) -> str:
    """What was expected, the likeliest first."""
    close = difflib.get_close_matches(word, known)
    listed = f"a {what}: {', '.join(known)}"
    return f"{listed}; did you mean {' or '.join(close)}?" if close else listed
