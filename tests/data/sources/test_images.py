"""Images are fetched from a server that is slow, broken, or no image's at all."""

import contextlib
import io
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prmkd_jax.common.errors import UserError
from prmkd_jax.common.files import MACHINE
from prmkd_jax.data.canonical import read_dataset
from prmkd_jax.data.sources import images
from prmkd_jax.data.sources.download import Retries
from prmkd_jax.data.sources.images import fetch_images

QUICK = Retries(times=2, pause=0.0)


def image(kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(stream, kind)
    return stream.getvalue()


class Site:
    """Answers by the path's name: /busy/… with 503 the first time, /short/… with half of it, …"""

    def __init__(self):
        self.asked: Counter[str] = Counter()
        self.open, self.most = 0, 0
        self.lock = threading.Lock()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                with site.lock:
                    site.asked[self.path] += 1
                    site.open += 1
                    site.most = max(site.most, site.open)
                try:
                    content = site.answer(self)
                finally:
                    with site.lock:
                        site.open -= 1
                # Only now: whoever has it all may ask again before this thread goes on.
                if isinstance(content, bytes):
                    self.wfile.write(content)

            def log_message(self, format, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.address = f"http://{self.host}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> bytes | None:
        """Does what the path's first word says; returns what is still to be sent."""
        what = handler.path.split("/")[1]
        content = image("PNG" if what == "png" else "JPEG")
        status = {"gone": 404, "away": 302}.get(what, 200)
        if what == "busy" and self.asked[handler.path] == 1:
            status = 503
        if what == "page":
            content = b"<html>no such image</html>"
        handler.send_response(status)
        if what == "away":
            handler.send_header("Location", "http://elsewhere.example/x.jpg")
        size = 1 << 40 if what == "huge" else len(content)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        cut = what == "cut" or (what == "short" and self.asked[handler.path] == 1)
        if status != 200 or what == "huge":
            return None
        return content[: len(content) // 2] if cut else content

    def close(self) -> None:
        """Ends the server."""
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def site():
    made = Site()
    yield made
    made.close()


def shop(folder: Path, urls: list[str | None], **columns) -> Path:
    """A data set with one item an address."""
    place = folder / "shop"
    place.mkdir()
    names = [f"i{number}" for number in range(len(urls))]
    rows = {"user_id": ["u"] * len(names), "item_id": names, "position": list(range(len(names)))}
    pq.write_table(pa.table(rows), place / "interactions.parquet")
    table = {"item_id": names, "title": names, "image_url": pa.array(urls, pa.string()), **columns}
    pq.write_table(pa.table(table), place / "items.parquet")
    return place


def fetch(place: Path, site: Site, **options):
    return fetch_images(place, (site.host,), retries=QUICK, **options)


def paths(place: Path) -> list[str | None]:
    return pq.read_table(place / "items.parquet")["image_path"].to_pylist()


def test_good_images_are_fetched_and_broken_ones_named(tmp_path, site):
    kinds = ("a", "png", "busy", "short", "gone", "page", "cut", "huge", "away")
    urls = [f"{site.address}/{kind}/1.jpg" for kind in kinds]
    place = shop(tmp_path, [*urls, None, "ftp://x/y.jpg", "http://[bad/x.jpg"])
    found = fetch(place, site)
    assert (found.fetched, found.there) == (4, 0)
    faults = {address.split("/")[3]: fault for address, fault in found.broken.items()}
    assert faults["gone"] == "status 404"
    assert faults["page"].startswith("no image (26 bytes that begin with '<html>")
    assert faults["huge"] == "more than 20 MB"
    assert faults["away"] == "host elsewhere.example, which --image_hosts doesn't name"
    assert faults["cut"].endswith(f"of {len(image())} bytes")
    assert found.broken["ftp://x/y.jpg"] == "an address that is not https"
    assert len(found.broken) == 7
    written = paths(place)
    assert [path is not None for path in written] == [True] * 4 + [False] * 8
    assert written[1].endswith(".png")  # by its content, not by its name
    catalogue = read_dataset(tmp_path, "shop").catalogue
    assert Path(catalogue.image_paths[0]).read_bytes() == image()
    assert "status 404" in (place / images.REPORT).read_text()


def test_the_next_call_asks_only_for_what_is_missing(tmp_path, site, monkeypatch):
    urls = [f"{site.address}/{kind}/1.jpg" for kind in ("a", "b", "gone")]
    place = shop(tmp_path, [*urls, urls[0]])
    fetch(place, site)
    assert site.asked["/a/1.jpg"] == 1  # two items with one address
    (place / f"images/abc.jpg.partial-999999999-{MACHINE}").write_bytes(b"half")
    (place / paths(place)[1]).unlink()
    found = fetch(place, site)
    assert (found.fetched, found.there, len(found.broken)) == (1, 1, 1)
    assert site.asked["/a/1.jpg"] == 1
    assert site.asked["/b/1.jpg"] == 2
    assert sorted(path.suffix for path in (place / "images").iterdir()) == [".jpg", ".jpg"]


def test_an_image_of_the_users_own_is_left_alone(tmp_path, site):
    own = pa.array(["mine.jpg", None], pa.string())
    place = shop(tmp_path, [f"{site.address}/{name}/1.jpg" for name in "ab"], image_path=own)
    found = fetch(place, site)
    assert found.fetched == 1
    assert paths(place)[0] == "mine.jpg"
    assert site.asked["/a/1.jpg"] == 0


def test_no_more_connections_than_allowed(tmp_path, site):
    place = shop(tmp_path, [f"{site.address}/{number}/1.jpg" for number in range(40)])
    assert fetch(place, site, connections=3).fetched == 40
    assert site.most <= 3


def test_a_server_that_says_nothing_is_given_up(tmp_path, site, monkeypatch):
    monkeypatch.setattr(images, "_SILENCE", 0.05)
    waits = threading.Event()
    monkeypatch.setattr(site, "answer", lambda handler: waits.wait(5))
    place = shop(tmp_path, [f"{site.address}/a/1.jpg"])
    try:
        found = fetch(place, site)
    finally:
        waits.set()
    assert "timed out" in next(iter(found.broken.values()))
    assert site.asked["/a/1.jpg"] == 3


def test_an_image_that_never_ends_is_given_up(tmp_path, site, monkeypatch):
    monkeypatch.setattr(images, "_WHOLE", 0.0)
    found = fetch(shop(tmp_path, [f"{site.address}/a/1.jpg"]), site)
    assert list(found.broken.values()) == ["no end after 0 seconds"]


def test_other_hosts_and_this_machine_are_asked_over_https_alone(monkeypatch, tmp_path):
    """A file from a stranger can't make this machine ask its own services over http."""
    asked = []
    monkeypatch.setattr(
        images, "_transfer", lambda address, hosts: asked.append(address) or image()
    )
    place = shop(tmp_path, ["http://127.0.0.1:8/x.jpg", "http://images.example/x.jpg"])
    fetch_images(place, retries=QUICK)
    assert sorted(asked) == ["https://127.0.0.1:8/x.jpg", "https://images.example/x.jpg"]


def test_a_data_set_without_addresses_is_refused(tmp_path):
    place = shop(tmp_path, [None, ""])
    with pytest.raises(UserError, match="found no addresses in column image_url, expected some"):
        fetch_images(place)


DRIPS = {
    "status": (b"", b"H"),
    "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "statuses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"a"),
    "chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "page of a redirect": (
        b"HTTP/1.1 302 Found\r\nLocation: /status\r\nContent-Length: 9999\r\n\r\n",
        b"a",
    ),
}


@pytest.fixture
def dripping():
    """The address of a server that sends one thing again and again, for half a minute at most."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads = []

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            asked = connection.recv(4096).split(b" ")[1].decode()
            begin, piece = DRIPS[asked.strip("/").replace("%20", " ")]
            connection.sendall(begin)
            ends = time.monotonic() + 30
            while time.monotonic() < ends:
                connection.sendall(piece)
                time.sleep(0.1)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=answer, args=(listening.accept()[0],)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in (accepting, *threads):
        thread.join()


def test_a_server_that_drips_is_given_up(tmp_path, dripping, monkeypatch):
    """Whatever it drips, an image has `_WHOLE` seconds in all, and isn't tried again."""
    monkeypatch.setattr(images, "_WHOLE", 1.0)
    urls = [f"http://{dripping}/{kind}".replace(" ", "%20") for kind in DRIPS]
    place = shop(tmp_path, urls)
    started = time.monotonic()
    found = fetch_images(place, (dripping,), retries=QUICK)
    assert time.monotonic() < started + 15
    assert found.broken == dict.fromkeys(urls, "no end after 1 seconds")
