import errno
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from prmkd_jax.common.errors import UserError
from prmkd_jax.data.sources import download
from prmkd_jax.data.sources.config import safe_address
from prmkd_jax.data.sources.download import Retries, fetch

CONTENT = bytes(range(256)) * 4096
QUICK = Retries(times=3, pause=0.0)


class Server:
    """A site with one file, which misbehaves as it is told.

    Attributes:
        address: of the site.
        script: what the next answers are: a status, or bytes after which the line is cut.
        ranges: the Range header of every request, None where it had none.
        content: the file.
        tag: its version.
        ranged: whether ranges are served.
        location: where a redirect leads.
        headers: sent with every file.
        shift: a range begins so many bytes late.
    """

    def __init__(self):
        self.script: list[int | bytes] = []
        self.ranges: list[str | None] = []
        self.content = CONTENT
        self.tag = '"1"'
        self.ranged = True
        self.location = ""
        self.headers: dict[str, str] = {}
        self.shift = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Does the next step of the script."""
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        step = self.script.pop(0) if self.script else len(self.content)
        if isinstance(step, int) and step in (404, 503, 302):
            handler.send_response(step)
            if step == 302:
                handler.send_header("Location", self.location)
            handler.end_headers()
            return
        start = 0
        if wanted and self.ranged and handler.headers.get("If-Range", self.tag) == self.tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-")) + self.shift
            if start >= len(self.content):
                handler.send_response(416)
                handler.send_header("Content-Range", f"bytes */{len(self.content)}")
                handler.end_headers()
                return
            handler.send_response(206)
            last = len(self.content) - 1
            handler.send_header("Content-Range", f"bytes {start}-{last}/{len(self.content)}")
        else:
            handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.content) - start))
        handler.send_header("ETag", self.tag)
        for name, value in self.headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        length = len(step) if isinstance(step, bytes) else len(self.content)
        handler.wfile.write(self.content[start : start + length])
        # What is missing of the length is never sent: the connection breaks.
        handler.close_connection = True

    def close(self) -> None:
        """Stops serving."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_file_is_fetched_once(server, tmp_path):
    seen = []
    path = tmp_path / "raw" / "a.gz"
    fetch(f"{server.address}/a.gz", path, lambda *told: seen.append(told), QUICK)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT), "a.gz")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "raw", path]
    fetch(f"{server.address}/a.gz", path, retries=QUICK)
    assert len(server.ranges) == 1


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.script = [b"x" * 1000, 503, b"x" * 5000]
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-", "bytes=6000-"]


def test_what_an_earlier_command_fetched_is_kept(server, tmp_path):
    server.script = [b"x" * 1000] + [503] * 5
    with pytest.raises(UserError, match=r"found status 503 after 4 tries.*from 1000 bytes"):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert not (tmp_path / "a").exists()
    server.script = []
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1000-"


def test_a_file_that_changed_meanwhile_is_fetched_as_a_whole(server, tmp_path):
    server.script = [b"x" * 1000]
    with pytest.raises(UserError):
        fetch(f"{server.address}/a", tmp_path / "a", retries=Retries(0, 0.0))
    server.content, server.tag = CONTENT[::-1], '"2"'
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ranged = False
    server.script = [b"x" * 1000]
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("surplus", [b"", b"more"])
def test_a_part_that_is_complete_or_too_long_meets_416(server, tmp_path, surplus):
    (tmp_path / "a.part").write_bytes(CONTENT + surplus)
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_missing_file_is_refused_at_once(server, tmp_path):
    server.script = [404]
    with pytest.raises(UserError, match="/a: found status 404, expected the file; is the category"):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert len(server.ranges) == 1


def test_pauses_grow(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(download.time, "sleep", pauses.append)
    server.script = [503] * 3
    fetch(f"{server.address}/a", tmp_path / "a", retries=Retries(3, 1.0))
    assert pauses == [1.0, 2.0, 4.0]


def test_only_safe_addresses_are_asked(server, tmp_path):
    with pytest.raises(UserError, match=r"http://example.org/a: found an address without https"):
        fetch("http://example.org/a", tmp_path / "a")
    server.script = [302]
    server.location = "http://example.org/a"
    with pytest.raises(UserError, match=r"found a redirect to http://example.org/a, expected"):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("https://files.example/a?b=c", True),
        ("http://localhost/a", True),
        ("http://localhost", True),
        ("http://127.0.0.1:80/", True),
        ("http://[::1]:80/a", True),
        ("http://127.0.0.1:80@evil.example/x", False),
        ("http://127.0.0.1@evil.example/x", False),
        ("http://localhost:80\\@evil.example/x", False),
        ("http://localhost\t.evil.example/x", False),
        ("http://localhost.evil.example/x", False),
        ("http://[::1/x", False),
        ("http://localhost:a/x", False),
        ("https://me:secret@files.example/a", False),
        ("https:///a", False),
        ("ftp://localhost/a", False),
    ],
)
def test_an_address_is_safe_by_its_host_alone(address, safe):
    """Who stands before an @ is no host."""
    assert safe_address(address) is safe


def test_a_redirect_to_a_safe_address_is_followed(server, tmp_path):
    server.script = [302]
    server.location = f"{server.address}/elsewhere"
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_file_that_ends_early_every_time_is_not_taken_for_whole(server, tmp_path):
    server.script = [b"x" * 10] + [b""] * 4
    with pytest.raises(UserError, match=rf"found 10 of {len(CONTENT)} bytes after 4 tries"):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "a.part").stat().st_size == 10


def test_another_range_than_was_asked_for_is_not_put_behind_what_is_there(server, tmp_path):
    server.script, server.shift = [b"x" * 10], 3
    with pytest.raises(UserError, match=r"found range 'bytes 13-.*' instead of one from byte 10"):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    server.shift = 0
    fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, r"found a page \(text/html\), expected the"),
        ({"Content-Encoding": "br"}, "found content in encoding 'br', expected the file"),
    ],
)
def test_what_is_not_the_file_is_refused_at_once(server, tmp_path, headers, message):
    server.headers = headers
    with pytest.raises(UserError, match=message):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert len(server.ranges) == 1
    assert not (tmp_path / "a.part").exists()


def test_a_gzipped_file_may_be_called_gzip_encoded(server, tmp_path):
    server.headers = {"Content-Encoding": "x-gzip", "Content-Type": "application/x-gzip"}
    fetch(f"{server.address}/a.gz", tmp_path / "a.gz", retries=QUICK)
    assert (tmp_path / "a.gz").read_bytes() == CONTENT


def test_two_calls_fetch_a_file_once_and_never_write_at_once(server, tmp_path):
    """The second call waits for the first, so they never share a part file."""
    waiting, said = threading.Event(), []
    plain = server.answer

    def answer(handler):
        assert waiting.wait(30)
        plain(handler)

    def wait(line: str) -> None:
        said.append(line)
        waiting.set()

    server.answer = answer
    server.script = [b"x" * 1000]
    threads = [
        threading.Thread(
            target=fetch,
            args=(f"{server.address}/a", tmp_path / "a"),
            kwargs={"retries": QUICK, "say": wait},
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said == [f"another process fetches {tmp_path / 'a'}; waiting for it"]
    assert server.ranges == [None, "bytes=1000-"]
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_full_disk_is_no_fault_of_the_server(server, tmp_path, monkeypatch):
    """The error names the part file, nothing is tried again, and the next call goes on."""

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(download.os, "fsync", full)
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/a.part'$"):
            fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert len(server.ranges) == 1
    assert fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT)}-"]


def test_a_refused_file_leaves_nothing(server, tmp_path):
    server.script = [404]
    with pytest.raises(UserError, match="found status 404"):
        fetch(f"{server.address}/a", tmp_path / "a", retries=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_nobody_answers(tmp_path):
    with pytest.raises(UserError, match="after 1 tries, expected the file"):
        fetch("http://127.0.0.1:9/a", tmp_path / "a", retries=Retries(0, 0.0))
