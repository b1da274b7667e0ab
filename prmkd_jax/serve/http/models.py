"""The models that are served, and their newer versions."""

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from prmkd_jax.common.digests import file_digest
from prmkd_jax.common.errors import UserError
from prmkd_jax.serve import explain
from prmkd_jax.serve.card import Card
from prmkd_jax.serve.exported import CARD, FILES, read_card
from prmkd_jax.serve.http.batching import Job, answer_jobs
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.search import TitleIndex
from prmkd_jax.serve.model_card import shown_label
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.rows import MOST_ROWS, padded_list, padded_rows, padded_window
from prmkd_jax.serve.self_check import CHECK

_LOG = logging.getLogger(__name__)

# A folder may be replaced while it is read.
_ATTEMPTS = 3

# Other cards than the student's own, of what an artefact explains with.
_OTHER_CARDS = (explain.CARD, f"{explain.PLAIN}/{CARD}")
# All that is read when a folder is opened.
_READ = (
    *FILES,
    CHECK,
    explain.CARD,
    explain.ARRAYS,
    *(f"{explain.PLAIN}/{name}" for name in FILES),
)

Digests = tuple[str | None, ...]
"""Of the student's card, then of each of `_OTHER_CARDS`; None for one that isn't there."""
Version = tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One version of a model, ready to answer.

    Attributes:
        recommender: answers.
        index: finds its items.
        title: item id → title; empty without titles.
        name: the name of the folder that a link leads to, such as sasrec-prmkd-seed0.
        digest: the digest of the version's card: other content, other digest.
        digests: the digests of all cards of the version, as they were found.
    """

    recommender: Recommender
    index: TitleIndex
    title: dict[str, str]
    name: str
    digest: str
    digests: Digests

    def described(self) -> dict[str, str]:
        """As answers name it."""
        return described(self.name, self.recommender.exported.card)


def described(name: str, card: Card) -> dict[str, str]:
    """An exported student as answers name it."""
    return {"name": name, "label": shown_label(card), "digest": card["digest"]}


def load(folder: Path, config: ServeConfig) -> Loaded:
    """Opens an export and compiles all that its requests will need.

    Raises:
        UserError: it is missing or damaged, or was replaced each time it was read.
    """
    for _ in range(_ATTEMPTS):
        # A link may be moved while its files are read: they shall come from one folder.
        place = _resolved(folder)
        digests = found_digests(folder)
        recommender = Recommender.load(place)
        exported, plain = recommender.exported, recommender.plain
        if digests == found_digests(folder) and digests[0] == exported.card["digest"]:
            break
    else:
        raise UserError(f"{folder}: found it replaced while it was read, expected it to stay")
    for each in (recommender,) if plain is None else (recommender, plain):
        warm(each, config)
    titles = exported.titles
    return Loaded(
        recommender=recommender,
        index=TitleIndex(exported.item_ids, titles),
        title={} if titles is None else dict(zip(exported.item_ids, titles, strict=True)),
        name=place.name,
        digest=exported.card["digest"],
        digests=digests,
    )


def _resolved(folder: Path) -> Path:
    """Where a link leads to; a link that leads to itself stays as it is."""
    return Path(os.path.realpath(folder))


def found_digests(folder: Path) -> Digests:
    """The digests of the cards that lie in a folder now."""
    place = _resolved(folder)
    found: list[str | None] = []
    for name in _OTHER_CARDS:
        try:
            found.append(file_digest(place / name))
        except OSError:
            found.append(None)
    try:
        return (read_card(place)["digest"], *found)
    except (UserError, OSError):
        return (None, *found)


def warm(recommender: Recommender, config: ServeConfig) -> None:
    """Computes one batch of every padded size, so that no request waits for a compiler."""
    exported = recommender.exported
    few = list(exported.item_ids[:1])
    # Users without a vector can't be answered by a student that makes none.
    users: list[str | None] = [*(exported.user_ids or ())[:1]]
    window = exported.facts.window
    # An id takes three bytes of a body at least, which is no longer than that.
    most_ids = config.max_body // 3
    longest = min(window, config.max_history, most_ids)
    lengths = _longest(longest, lambda count: padded_window(count, window), least=1)
    # Denied items stand in one list with those of the history.
    denied = _longest(min(config.max_history + config.max_list, most_ids), padded_list)
    lists: list[tuple[list[str] | None, list[str] | None]] = [(few * n, None) for n in denied]
    lists += [(None, few * n) for n in _longest(min(config.max_list, most_ids), padded_list)]
    # One large request, or several small ones together.
    most = min(MOST_ROWS, max(config.max_histories, config.batch_rows))
    for rows in _longest(most, padded_rows, least=1):
        own = users * rows if exported.users is not None else None
        for length in lengths:
            recommender.recommend([few * length] * rows, k=1, users=own)
        for (deny, allow), k in itertools.product(lists, (1, config.max_k)):
            job = Job([few] * rows, k, own, False, allow, deny)
            for answer in answer_jobs(recommender, [job], config.max_k):
                if isinstance(answer, Exception):
                    raise answer
    recommender.similar(few[0], config.max_k)


def _longest(most: int, padded: Callable[[int], int], least: int = 0) -> list[int]:
    """For each size that numbers up to `most` are padded to, the largest of these numbers.

    >>> _longest(100, padded_list), _longest(20, padded_rows, least=1)
    ([64, 100], [1, 8, 20])
    """
    found: list[int] = []
    count = least
    while count <= most:
        # A padded size is that of itself.
        found.append(min(most, max(count, padded(count))))
        count = found[-1] + 1
    return found


def found_version(folder: Path) -> tuple[Digests, Version]:
    """The digests, and the size and time of each file, as they lie in a folder now."""
    digests = found_digests(folder)
    files: list[tuple[str, int, int]] = []
    for name in _READ:
        with contextlib.suppress(OSError):
            state = (folder / name).stat()
            files.append((name, state.st_size, state.st_mtime_ns))
    return digests, tuple(files)


class Watched:
    """A folder whose newest version is served; the old one answers until the new one can.

    Args:
        folder: the folder of an export, or a link to one.
        config: limits, for which it is warmed.
        executor: runs what would hold up the event loop.
        say: receives a line at each change.
        count: receives whether a newer version could be loaded.
    """

    def __init__(
        self,
        folder: Path,
        config: ServeConfig,
        executor: Executor,
        say: Callable[[str], None],
        count: Callable[[bool], None],
    ):
        self._folder = folder
        self._config = config
        self._executor = executor
        self._say = say
        self._count = count
        # By its files too: one that is copied file by file may be whole at the next look.
        self._refused: Version | None = None
        self.current = load(folder, config)

    async def watch(self) -> None:
        """Looks for a newer version, for ever: what goes wrong at one look ends no later one."""
        while True:
            await asyncio.sleep(self._config.reload_every)
            try:
                await self.look()
            except Exception:
                _LOG.exception("%s: can't be looked at", self._folder)

    async def look(self) -> None:
        """Loads what lies in the folder if it is another version than the one served."""
        loop = asyncio.get_running_loop()
        digests, version = await loop.run_in_executor(self._executor, found_version, self._folder)
        if digests[0] is None or digests == self.current.digests or version == self._refused:
            return
        try:
            newer = await loop.run_in_executor(self._executor, load, self._folder, self._config)
        except Exception as error:  # whatever it is, the old one goes on
            self._refused = version
            self._count(False)
            self._say(f"{self._folder}: the newer model is not served: {error}")
            return
        self.current = newer
        self._count(True)
        self._say(f"{self._folder}: now serving {newer.name}, {newer.digest[:12]}")
