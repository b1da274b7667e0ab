"""What is said never stops a run: neither a narrow encoding nor a stream that is closed."""

import io
import os
import sys


def open_streams() -> None:
    """Makes both outputs fit for any text.

    A terminal or log that can't hold a character, as in "UniM²Rec", gets its number in place of an
    error after hours. Closed outputs lead nowhere; left closed, the next file that is opened would
    get their place, and what compiled code says would be written into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free one, which is this
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
