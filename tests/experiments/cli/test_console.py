"""Progress on a terminal and in a log."""

import io
import logging

import pytest
from rich.console import Console
from rich.table import Table

from experiments.cli.console import Reporter, SafeConsole


def reporter(terminal: bool) -> tuple[Reporter, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    return Reporter(console), stream


@pytest.mark.parametrize("terminal", [False, True])
def test_log_gets_plain_lines_with_rate_and_remaining_time(monkeypatch, terminal):
    """A log gets no control characters, no line for every step, and the right rate.

    A terminal without a cursor, such as an editor's, gets the same lines.
    """
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("experiments.cli.console.monotonic", lambda: float(next(clock)))
    monkeypatch.setenv("TERM", "dumb")
    told, stream = reporter(terminal)
    with told.stage("run", "steps") as stage:  # the stage begins at 0 s
        for done in range(1, 6):  # 20, 40, … 100 s
            stage.update(done, 10)
    # Two steps in 40 s since the first; eight of ten are left after the third.
    assert stream.getvalue().splitlines() == [
        "run: 3/10 steps, 0.1 steps/s, 140 s left",
        "run: 5/10 steps, 0.1 steps/s, 100 s left",
    ]


def test_falling_count_begins_a_new_round(monkeypatch):
    """The second epoch's rate doesn't count the first epoch's time."""
    times = iter([0, 10, 50, 1000, 1040])
    monkeypatch.setattr("experiments.cli.console.monotonic", lambda: float(next(times)))
    told, stream = reporter(terminal=False)
    with told.stage("run", "steps") as stage:
        for done in (1, 41, 1, 41):
            stage.update(done, 81)
    assert stream.getvalue().splitlines() == [
        "run: 41/81 steps, 1.0 steps/s, 40 s left",
        "run: 41/81 steps, 1.0 steps/s, 40 s left",
    ]


def test_terminal_shows_a_bar():
    """The bar shows the steps done, such as 3/10."""
    told, stream = reporter(terminal=True)
    with told.stage("run", "steps") as stage:
        stage.update(3, 10)
    assert "3/10" in stream.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_what_would_move_the_cursor_is_shown_by_its_number(terminal):
    """Of a path, a warning, a stage or a table; spaces of other widths and new lines stay."""
    stream = io.StringIO()
    told = Reporter(SafeConsole(file=stream, force_terminal=terminal, width=100, highlight=False))
    text = "a\x1b[2J\u202eb\x9b\x00\ud800c"
    shown = r"a\x1b[2J\u202eb\x9b\x00\ud800c"
    told.say(f"{text}\none\u00a0two")
    told.warn(text)
    table = Table(text)
    table.add_row(text)
    told.console.print(table)
    with told.stage(text, "steps") as stage:
        stage.update(3, 10)
    found = stream.getvalue()
    assert found.count(shown) == 2
    assert "\none\u00a0two\n" in found
    for odd in ("\x1b[2J\u202e", "\x9b", "\x00", "\ud800"):
        assert odd not in found


def test_reporters_show_it_so_by_themselves():
    assert isinstance(Reporter().console, SafeConsole)
    assert isinstance(Reporter(Console(file=io.StringIO())).console, SafeConsole)


def test_line_is_not_taken_for_markup():
    """A name in brackets doesn't vanish from the output."""
    told, stream = reporter(terminal=False)
    told.say("[red]x, distill_weight=1:100:log")
    assert stream.getvalue() == "[red]x, distill_weight=1:100:log\n"
    told, stream = reporter(terminal=True)
    with told.stage("fetch [/x]", "MB") as stage:
        stage.update(1, 2, "fetch [red]y")
    assert "fetch [red]y" in stream.getvalue()


def test_a_long_line_stays_one():
    """A command to copy or a Markdown table isn't broken at the console's width."""
    for terminal in (False, True):
        told, stream = reporter(terminal)
        told.say("next: " + "word " * 60 + "end")
        told.warn("word " * 60 + "end")
        assert stream.getvalue().count("\n") == 2


def test_a_library_s_warning_is_shown_as_one_of_ours():
    """A warning on the library's logger is heard, and the logger is left as it was."""
    out = io.StringIO()
    logger = logging.getLogger("prmkd_jax.train.checkpoint")
    with Reporter(Console(file=out)).listening():
        logger.warning("%s: found it damaged", "epoch_4")
    assert out.getvalue() == "warning: epoch_4: found it damaged\n"
    assert not logging.getLogger("prmkd_jax").handlers
