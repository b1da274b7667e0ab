"""Progress for people: a bar with rate and remaining time on a terminal, lines in a log."""

import logging
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from prmkd_jax.common.errors import printable

# The loggers of the packages, which tell what a library can't ask about.
_LOGGERS = ("prmkd_jax", "teachers_torch", "bridge", "experiments")

# A log gets a line of a long stage this often, in seconds.
_LOG_EVERY = 30.0


class SafeConsole(Console):
    """Shows characters that would move the cursor, or turn the text around, by their numbers.

    A path or a name in a file may hold any: a terminal would do what they say.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As the base class; Rich's own control codes stay."""
        for segment in super().render(renderable, options):
            text = segment.text
            if segment.control or text.isprintable():
                yield segment
            else:
                yield segment._replace(text="".join(map(_shown, text)))


def _shown(character: str) -> str:
    space = character in "\n\t" or unicodedata.category(character) == "Zs"
    return character if space else printable(character)


class Reporter:
    """Tells what is being done, in the way that suits where the output goes."""

    def __init__(self, console: Console | None = None):
        # A log has no width of its own; tables in it are made for 120 columns. Rich would make an
        # emoji of ":100:", as in the settings "distill_weight=1:100:log".
        self.console = console or SafeConsole(highlight=False, emoji=False)
        if not self.console.is_terminal:
            file = self.console.file
            self.console = SafeConsole(highlight=False, emoji=False, width=120, file=file)

    @property
    def shows_bars(self) -> bool:
        """Whether the output can draw a bar again and again; else there are lines at intervals."""
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def say(self, text: str) -> None:
        """Prints one line, however long: a command or a path that is broken can't be copied."""
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Prints one warning."""
        self.console.print(Text("warning: ", style="yellow") + Text(text), soft_wrap=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Shows the warnings that the packages log, such as those about damaged files."""
        handler = _Warnings(self)
        loggers = [logging.getLogger(name) for name in _LOGGERS]
        for logger in loggers:
            logger.addHandler(handler)
            logger.propagate = False
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
                logger.propagate = True

    @contextmanager
    def stage(self, title: str, unit: str) -> Iterator["Stage"]:
        """Shows a stage of unknown parts; its parts are announced by `Stage.update`."""
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn(unit),
            _Rate(unit),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.shows_bars,
        )
        with bar:
            yield Stage(self, bar, title, unit)


class _Warnings(logging.Handler):
    def __init__(self, reporter: Reporter):
        super().__init__(logging.WARNING)
        self._reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one warning."""
        self._reporter.warn(record.getMessage())


class Stage:
    """One stage on the screen."""

    def __init__(self, reporter: Reporter, bar: Progress, title: str, unit: str):
        self._reporter, self._bar, self._title, self._unit = reporter, bar, title, unit
        self._task = bar.add_task(title, total=None)
        # A count that falls begins a new round (an epoch), with a rate of its own.
        self._done, self._first = float("inf"), 0
        self._started = self._logged = monotonic()

    def update(self, done: int, total: int, title: str | None = None) -> None:
        """Moves the bar; a log gets a line at intervals."""
        if title is not None:
            self._title = title
        total, now = max(done, total), monotonic()
        if done <= self._done:
            self._bar.reset(self._task)
            self._started, self._logged, self._first = now, now, done
        self._done = done
        self._bar.update(self._task, completed=done, total=total, description=self._title)
        if not self._reporter.shows_bars and now - self._logged >= _LOG_EVERY:
            self._logged = now
            rate = (done - self._first) / (now - self._started)
            left = (total - done) / rate
            self._reporter.say(
                f"{self._title}: {done}/{total} {self._unit}, "
                f"{rate:.1f} {self._unit}/s, {left:.0f} s left"
            )


class _Rate(ProgressColumn):
    def __init__(self, unit: str):
        self._unit = unit
        super().__init__()

    def render(self, task: Task) -> Text:
        """Parts a second."""
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "")
