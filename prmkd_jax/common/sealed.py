"""Files that carry their own digest, so that damage is seen before a value is used.

A sealed file ends in the SHA-256 of what stands before; NumPy's readers don't look that far. A
sealed JSON object holds the digest of its other entries under `digest`.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prmkd_jax.common.digests import content_digest, file_digest
from prmkd_jax.common.files import write_json, writing
from prmkd_jax.common.reading import open_regular, read_json

_BYTES = hashlib.sha256().digest_size
_BLOCK = 1 << 20
_KEY = "digest"


@contextlib.contextmanager
def writing_sealed(path: Path) -> Iterator[Path]:
    """As `files.writing`; the file that replaces `path` is sealed."""
    with writing(path) as partial:
        yield partial
        seal(partial)


def seal(path: Path) -> None:
    """Appends the digest of a file to it."""
    digest = bytes.fromhex(file_digest(path))
    with path.open("ab") as stream:
        stream.write(digest)


def is_sealed(path: Path) -> bool:
    """Whether a file ends in the digest of what stands before; False without a file.

    Raises:
        OSError: it can't be read, or is no regular file.
    """
    with contextlib.suppress(FileNotFoundError), open_regular(path) as stream:
        left = os.fstat(stream.fileno()).st_size - _BYTES
        digest = hashlib.sha256()
        while left > 0 and (block := stream.read(min(left, _BLOCK))):
            digest.update(block)
            left -= len(block)
        return left == 0 and stream.read() == digest.digest()
    return False


def read_sealed(path: Path) -> bytes:
    """What was sealed.

    Raises:
        OSError: the file can't be read.
        ValueError: it isn't as it was written.
    """
    with open_regular(path) as stream:
        content = stream.read()
    body = memoryview(content)[:-_BYTES]
    if hashlib.sha256(body).digest() != content[-_BYTES:]:
        raise ValueError("it differs from its digest")
    return bytes(body)


def write_sealed_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes a JSON object with the digest of its entries."""
    # As JSON has it, so that it equals what is read back.
    entries = json.loads(json.dumps(content))
    write_json(path, {**entries, _KEY: content_digest(entries)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The entries of a sealed JSON object.

    Raises:
        OSError: the file can't be read.
        ValueError: it isn't as it was written.
    """
    content = read_json(path)
    if not isinstance(content, dict) or _KEY not in content:
        raise ValueError("it has no digest")
    digest = content.pop(_KEY)
    if digest != content_digest(content):
        raise ValueError("it differs from its digest")
    return content
