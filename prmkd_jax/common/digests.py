"""SHA-256 of files and of JSON contents: how runs, caches and exports know what they are of."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from prmkd_jax.common.reading import open_regular


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file's content, 64 hex digits."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the contents of several files, in order, 64 hex digits; names don't count."""
    digests = b"".join(bytes.fromhex(file_digest(path)) for path in paths)
    return hashlib.sha256(digests).hexdigest()


def content_digest(content: object) -> str:
    """SHA-256 of JSON content, 64 hex digits; the order of keys doesn't matter.

    >>> content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
