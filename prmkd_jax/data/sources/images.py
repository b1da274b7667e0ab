"""Fetches the images that a catalogue names by address, many at once.

An image's file is named by the hash of its address, and has the name only when it is complete,
so a fetch that was stopped goes on where it was. Addresses that answered wrongly are counted and
named.
"""

import functools
import hashlib
import http.client
import itertools
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from prmkd_jax.common.errors import UserError, first_line
from prmkd_jax.common.files import remove_leftovers, write_json, writing
from prmkd_jax.data.canonical import ITEMS
from prmkd_jax.data.sources.config import safe_address
from prmkd_jax.data.sources.deadline import deadline_opener
from prmkd_jax.data.sources.download import BUSY, Retries
from prmkd_jax.data.sources.folder import IMAGES as FOLDER

REPORT = "images.json"
_LIMIT = 20 << 20
_PIECE = 1 << 16
# Seconds without a byte, and of a whole image.
_SILENCE, _WHOLE = 20.0, 60.0
_AT_ONCE = 4096
_KINDS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png", b"GIF8": "gif"}


class ImageReport(NamedTuple):
    """What became of a catalogue's addresses.

    Attributes:
        fetched: addresses that were fetched now.
        there: addresses that had been fetched before.
        broken: address → what was found instead of an image.
    """

    fetched: int
    there: int
    broken: Mapping[str, str]


class _Broken(Exception):
    """An answer that is no image; another try won't help."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an address that could have been asked for itself."""

    def __init__(self, hosts: Collection[str]):
        self._hosts = hosts

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """As the base class, after a look at the new address."""
        asked = _allowed(newurl, self._hosts)
        fp.close()  # the base class would read a page without end
        return super().redirect_request(req, fp, code, msg, headers, asked)


def fetch_images(
    folder: Path,
    hosts: Collection[str] = (),
    connections: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
    retries: Retries = Retries(times=2),  # noqa: B008 a constant
) -> ImageReport:
    """Fetches what `image_url` names and `image_path` doesn't; writes `image_path`.

    Args:
        folder: the data set.
        hosts: names, with the port where there is one, that images may come from; empty for
            every public one.
        connections: images fetched at once.
        progress: receives the number of addresses that are done, and of all.
        retries: attempts for one image.

    Raises:
        UserError: the data set has no such addresses.
    """
    table = pq.read_table(folder / ITEMS)
    wanted = _wanted(table, folder / ITEMS)
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    remove_leftovers(place)
    names = {path.stem: path.name for path in place.iterdir() if path.is_file()}
    missing = [address for address in wanted if _stem(address) not in names]
    there, broken = len(wanted) - len(missing), {}
    one = functools.partial(_fetch_into, place, hosts, retries)
    done = there
    with ThreadPoolExecutor(connections) as pool:
        try:
            # By parts: a million tasks that wait are a gigabyte.
            for start in range(0, len(missing), _AT_ONCE):
                for address, name, fault in pool.map(one, missing[start : start + _AT_ONCE]):
                    if fault:
                        broken[address] = fault
                    else:
                        names[_stem(address)] = name
                    done += 1
                    progress(done, len(wanted))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    _write_paths(folder / ITEMS, table, names)
    fetched = len(missing) - len(broken)
    write_json(folder / REPORT, {"fetched": fetched + there, "broken": broken})
    return ImageReport(fetched, there, broken)


def _fetch_into(
    place: Path, hosts: Collection[str], retries: Retries, address: str
) -> tuple[str, str, str]:
    """The address, the file's name, and what is wrong; one of the two is empty."""
    try:
        content = _fetch(address, hosts, retries)
        name = f"{_stem(address)}.{_kind(content)}"
    except (_Broken, OSError, http.client.HTTPException, ValueError) as error:
        return address, "", first_line(error)
    with writing(place / name) as partial:
        partial.write_bytes(content)
    return address, name, ""


def _wanted(table: pa.Table, path: Path) -> list[str]:
    """Distinct addresses of the items that have no image of the user's own.

    Raises:
        UserError: there are none.
    """
    urls = _column(table, "image_url")
    pairs = zip(urls, _column(table, "image_path"), strict=True)
    found = sorted({url for url, image in pairs if url and _is_fetched(image)})
    if not found:
        raise UserError(
            f"{path}: found no addresses in column image_url, expected some for --download_images"
        )
    return found


def _is_fetched(path: str | None) -> bool:
    """Whether a path is empty or was written here."""
    return not path or path.startswith(f"{FOLDER}/")


def _write_paths(path: Path, table: pa.Table, names: Mapping[str, str]) -> None:
    """Writes items.parquet with the column `image_path`."""
    found = []
    urls, old = table["image_url"].to_pylist(), _column(table, "image_path")
    for url, before in zip(urls, old, strict=True):
        name = names.get(_stem(url)) if url else None
        found.append((f"{FOLDER}/{name}" if name else None) if _is_fetched(before) else before)
    if "image_path" in table.column_names:
        table = table.drop_columns("image_path")
    with writing(path) as partial:
        pq.write_table(table.append_column("image_path", pa.array(found, pa.string())), partial)


def _column(table: pa.Table, name: str) -> list[str | None]:
    known = name in table.column_names
    return table[name].to_pylist() if known else list(itertools.repeat(None, len(table)))


def _stem(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]


def _kind(content: bytes) -> str:
    """The ending of an image's file, by its first bytes whatever the server says.

    Raises:
        _Broken: it is no image.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    for start, kind in _KINDS.items():
        if content.startswith(start):
            return kind
    shown = content[:12].decode("ascii", "replace").strip()
    raise _Broken(f"no image ({len(content)} bytes that begin with {shown!r})")


def _allowed(address: str, hosts: Collection[str]) -> str:
    """The address to ask, over https where the host is not named as one to trust.

    Raises:
        _Broken: images may not come from there.
    """
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _Broken("an address that is not https")
    if hosts and parts.netloc not in hosts:
        raise _Broken(f"host {parts.netloc}, which --image_hosts doesn't name")
    local = parts.netloc in hosts and safe_address(address)
    return address if local else parts._replace(scheme="https").geturl()


def _fetch(address: str, hosts: Collection[str], retries: Retries) -> bytes:
    """One image; what is worth it is tried again."""
    asked = _allowed(address, hosts)
    for tried in itertools.count(1):
        try:
            return _transfer(asked, hosts)
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in BUSY or tried > retries.times:
                    raise _Broken(f"status {error.code}") from None
        except (OSError, http.client.HTTPException):
            if tried > retries.times:
                raise
        time.sleep(retries.pause * 2 ** (tried - 1))
    raise AssertionError("a count has no end")


def _transfer(address: str, hosts: Collection[str]) -> bytes:
    """One try.

    Raises:
        _Broken: the image is too large, or takes too long.
        OSError: the line broke.
    """
    ends = time.monotonic() + _WHOLE
    try:
        return _read(address, deadline_opener(ends, _SILENCE, _Redirects(hosts)))
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException):
        if time.monotonic() >= ends:
            raise _Broken(f"no end after {_WHOLE:g} seconds") from None
        raise


def _read(address: str, opener: urllib.request.OpenerDirector) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "prmkd-jax"})
    content = bytearray()
    with opener.open(request, timeout=_SILENCE) as answer:
        length = answer.headers.get("Content-Length", "")
        size = int(length) if length.isdigit() else None
        while (size or len(content)) <= _LIMIT:
            piece = answer.read1(_PIECE)
            content += piece
            if not piece:
                break
        else:
            raise _Broken(f"more than {_LIMIT >> 20} MB")
    if size is not None and len(content) != size:
        raise ConnectionError(f"{len(content)} of {size} bytes")
    return bytes(content)
