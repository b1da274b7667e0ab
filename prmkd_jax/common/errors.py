"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake in the input, the flags or the environment, reported in one line.

    The message names the file and the line or field, the value found and what was
    expected. The command line prints it without a traceback and exits with status 2;
    everything else that escapes is a bug and keeps its traceback.
    """


def printable(text: str) -> str:
    r"""Text in one line that moves no cursor: a file's name may hold anything.

    >>> printable("a\nb\x1b[2J") == r"a\nb\x1b[2J"
    True
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str) -> str:
    """A text of at most 60 characters, to be shown in a message.

    >>> len(shortened("a" * 1000)), shortened("plain")
    (60, 'plain')
    """
    return text if len(text) <= 60 else f"{text[:57]}..."


def first_line(error: BaseException) -> str:
    """What another library's exception says, short enough for a `UserError`."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
