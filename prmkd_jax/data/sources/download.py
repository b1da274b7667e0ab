"""Fetches files over https: goes on where it stopped, tries again, checks the size.

A file is fetched as `<name>.part` and renamed when it is complete, so that what has the name is
whole. Which version of the file a part belongs to stands in `<name>.part.etag`.
"""

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from prmkd_jax.common.cache import locked
from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.data.sources.config import safe_address

Progress = Callable[[int, int | None, str], None]
_PIECE = 1 << 20
_TIMEOUT = 60.0
# Statuses that are worth another try; every other refusal is an answer.
BUSY = (408, 425, 429, 500, 502, 503, 504)


class Retries(NamedTuple):
    """How often a transfer that brings nothing is tried again, and the first pause in seconds."""

    times: int = 6
    pause: float = 1.0


class _Interrupted(Exception):
    """The transfer stopped before its end, or the server was busy."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that is as safe."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """As the base class, after a look at the new address."""
        if not safe_address(newurl):
            raise UserError(f"{req.full_url}: found a redirect to {newurl}, expected https://…")
        fp.close()  # the base class would read a page without end
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    address: str,
    path: Path,
    progress: Progress = lambda done, total, title: None,
    retries: Retries = Retries(),  # noqa: B008 a constant
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Fetches one file, unless it is there; waits while another process fetches it.

    Args:
        address: https, or http of this machine.
        path: the file to write.
        progress: receives the bytes that are there, all bytes where known, and the file's name.
        retries: after so many tries in a row without a new byte, it gives up.
        say: is given a line where it has to wait.

    Raises:
        UserError: the server refuses, or the retries are used up; what was fetched stays, and
            the next call goes on from there.
        OSError: the file can't be written, as on a full disk, which is no fault of the server's;
            what was fetched stays too.
    """
    if path.is_file():
        return path
    if not safe_address(address):
        raise UserError(f"{address}: found an address without https, expected https://…")
    with locked(path, lambda: say(f"another process fetches {path}; waiting for it"), keep=False):
        if not path.is_file():
            _fetch(address, path, progress, retries)
    return path


def _fetch(address: str, path: Path, progress: Progress, retries: Retries) -> None:
    """All tries; the file is there at the end."""
    part = path.with_name(path.name + ".part")
    failed = 0
    while True:
        before = _size(part)
        try:
            _transfer(address, part, progress, path.name)
            break
        except OSError as error:
            # Of this machine's disk, as the network's are `_Interrupted`; a full one names no file.
            if error.errno is not None and error.filename is None:
                raise OSError(error.errno, error.strerror, str(part)) from error
            raise
        except _Interrupted as error:
            failed = failed + 1 if _size(part) <= before else 1
            if failed > retries.times:
                raise UserError(
                    f"{address}: found {first_line(error)} after {failed} tries, expected the "
                    f"file; the same command goes on from {_size(part)} bytes"
                ) from None
            time.sleep(min(retries.pause * 2 ** (failed - 1), 60.0))
    _tag_file(part).unlink(missing_ok=True)
    os.replace(part, path)


def _transfer(address: str, part: Path, progress: Progress, title: str) -> None:
    """One try; returns when the part is complete."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity", "User-Agent": "prmkd-jax"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _tag_file(part).is_file():
            # A file that has changed since comes as a whole.
            headers["If-Range"] = _tag_file(part).read_text()
    opener = urllib.request.build_opener(_Redirects)
    try:
        answer = opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            _refused(error, address, part, have)
        return
    except (http.client.HTTPException, OSError) as error:
        raise _Interrupted(first_line(error)) from None
    with answer:
        _require_file(answer, address)
        total = _total(answer, have)
        mode = "ab" if answer.status == 206 and have else "wb"
        done = have if mode == "ab" else 0
        if tag := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
            _tag_file(part).write_text(tag)
        with part.open(mode) as stream:
            for piece in _pieces(answer):
                stream.write(piece)
                done += len(piece)
                progress(done, total, title)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and done != total:
        if done > total:
            part.unlink()
        raise _Interrupted(f"{done} of {total} bytes")


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What the server sends.

    Raises:
        _Interrupted: the line broke.
    """
    while True:
        try:
            piece = answer.read(_PIECE)
        except (http.client.HTTPException, OSError) as error:
            raise _Interrupted(first_line(error)) from None
        if not piece:
            return
        yield piece


def _require_file(answer: http.client.HTTPResponse, address: str) -> None:
    """Refuses what is another thing under the file's address.

    gzip as an encoding is let through: servers say it of files that are gzipped themselves, and
    readers tell gzip by its first bytes.

    Raises:
        UserError: it is a page, such as a login, or packed in another way.
    """
    kind = answer.headers.get_content_type()
    if kind == "text/html":
        raise UserError(f"{address}: found a page ({kind}), expected the file")
    encoding = answer.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise UserError(f"{address}: found content in encoding {encoding!r}, expected the file")


def _refused(error: urllib.error.HTTPError, address: str, part: Path, have: int) -> None:
    """What an error status means; returns where the part is the whole file already."""
    if error.code in BUSY:
        raise _Interrupted(f"status {error.code}") from None
    if error.code == 416 and have:
        total = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if total == str(have):
            return
        # The file is shorter than what is here: another version of it.
        part.unlink()
        raise _Interrupted("status 416") from None
    hint = "; is the category's name spelled as on the site?" if error.code == 404 else ""
    raise UserError(f"{address}: found status {error.code}, expected the file{hint}") from None


def _total(answer: http.client.HTTPResponse, have: int) -> int | None:
    """The whole file's size, as far as the server says it.

    Raises:
        _Interrupted: the server sends another range than was asked for.
    """
    if answer.status == 206:
        span, _, total = (answer.headers.get("Content-Range") or "").partition("/")
        if not span.startswith(f"bytes {have}-"):
            raise _Interrupted(f"range {span!r} instead of one from byte {have}")
        return int(total) if total.isdigit() else None
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")
