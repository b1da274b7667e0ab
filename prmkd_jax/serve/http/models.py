"""The models that are served, and their newer versions."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.card import Card
from prmkd_jax.serve.exported import FILES, read_card
from prmkd_jax.serve.http.batching import Job, answer_jobs
from prmkd_jax.serve.http.config import ServeConfig
from prmkd_jax.serve.http.search import TitleIndex
from prmkd_jax.serve.model_card import shown_label
from prmkd_jax.serve.recommender import Recommender
from prmkd_jax.serve.rows import padded_rows, padded_window

# A folder may be replaced while it is read.
_ATTEMPTS = 3

Version = tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """One version of a model, ready to answer.

    Attributes:
        recommender: answers.
        index: finds its items.
        title: item id → title; empty without titles.
        name: of the folder that a link leads to, such as sasrec-prmkd-seed0.
        digest: of its card: other content, other digest.
    """

    recommender: Recommender
    index: TitleIndex
    title: dict[str, str]
    name: str
    digest: str

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
        recommender = Recommender.load(folder.resolve())
        exported, plain = recommender.exported, recommender.plain
        if found_digest(folder) == exported.card["digest"]:
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
        name=folder.resolve().name,
        digest=exported.card["digest"],
    )


def found_digest(folder: Path) -> str | None:
    """The digest of the card that lies in a folder now; None while there is none."""
    try:
        return read_card(folder.resolve())["digest"]
    except (UserError, OSError):
        return None


def warm(recommender: Recommender, config: ServeConfig) -> None:
    """Computes one batch of every padded size, so that no request waits for a compiler."""
    exported = recommender.exported
    few, many = list(exported.item_ids[:1]), list(exported.item_ids[:1]) * config.max_list
    longest = list(exported.item_ids[:1]) * (config.max_history + config.max_list)
    # Users without a vector can't be answered by a student that makes none.
    users: list[str | None] = [*(exported.user_ids or ())[:1]]
    padded = {padded_rows(count) for count in range(1, config.max_histories + 1)}
    for rows in sorted({min(count, config.max_histories) for count in padded}):
        own = users * rows if exported.users is not None else None
        # Rows of every length, then lists of every length.
        window = exported.facts.window
        lengths = {padded_window(n, window): n for n in range(1, window + 1)}
        for length in sorted(lengths.values()):
            recommender.recommend([few * length] * rows, k=1, users=own)
        lists = ((few, None), (longest, None), (None, few), (None, many))
        for (deny, allow), k in itertools.product(lists, (1, config.max_k)):
            job = Job([few] * rows, k, own, False, allow, deny)
            for answer in answer_jobs(recommender, [job], config.max_k):
                if isinstance(answer, Exception):
                    raise answer
    recommender.similar(few[0], config.max_k)


def found_version(folder: Path) -> tuple[str | None, Version]:
    """The digest, and the size and time of each file, as they lie in a folder now."""
    digest, files = found_digest(folder), []
    for name in FILES:
        with contextlib.suppress(OSError):
            state = (folder / name).stat()
            files.append((name, state.st_size, state.st_mtime_ns))
    return digest, tuple(files)


class Watched:
    """A folder whose newest version is served; the old one answers until the new one can.

    Args:
        folder: of an export, or a link to one.
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
        """Looks for a newer version, for ever."""
        while True:
            await asyncio.sleep(self._config.reload_every)
            await self.look()

    async def look(self) -> None:
        """Loads what lies in the folder if it is another version than the one served."""
        loop = asyncio.get_running_loop()
        digest, version = await loop.run_in_executor(self._executor, found_version, self._folder)
        if digest in (None, self.current.digest) or version == self._refused:
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
