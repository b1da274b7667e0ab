"""Requests that arrive within milliseconds share one call of the model."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from prmkd_jax.common.errors import UserError
from prmkd_jax.serve.recommender import Answer, Recommender

# Most requests ask for few items: these share a smaller program than the largest k does.
FEW = 16

Lists = list[str] | list[list[str]]
Found = TypeVar("Found")


class Job(NamedTuple):
    """What one request wants.

    Attributes:
        histories: item ids of each, oldest first; at least one.
        k: items that each gets.
        users: each history's user; None where none is given.
        filter_seen: whether the items of the histories are left out.
        allow: the only items, for all histories or a list for each; None for all items.
        deny: items to leave out, likewise.
    """

    histories: list[list[str]]
    k: int
    users: list[str | None] | None = None
    filter_seen: bool = True
    allow: Lists | None = None
    deny: Lists | None = None


class _Waiting(NamedTuple):
    job: Job
    answered: asyncio.Future


def answer_jobs(
    recommender: Recommender, jobs: Sequence[Job], max_k: int
) -> list[list[Answer] | UserError]:
    """Answers several requests by as few calls as their lists allow.

    Each gets what `Recommender.recommend` would give it alone.

    Args:
        recommender: the model that answers.
        jobs: the requests.
        max_k: largest k of any.

    Returns:
        each request's answers with titles where the export has them, or what is wrong with it.
    """
    answers: dict[int, list[Answer] | UserError] = {}
    for listed in (False, True):
        numbers = [n for n, job in enumerate(jobs) if (job.allow is not None) is listed]
        if not numbers:
            continue
        some = [jobs[number] for number in numbers]
        try:
            found = _together(recommender, some, max_k)
        except UserError as error:
            if len(some) == 1:
                found = [error]
            else:  # one request's mistake is not the others'
                found = [answer_jobs(recommender, [job], max_k)[0] for job in some]
        answers.update(zip(numbers, found, strict=True))
    return [answers[number] for number in range(len(jobs))]


def _together(
    recommender: Recommender, jobs: Sequence[Job], max_k: int
) -> list[list[Answer] | UserError]:
    """One call for jobs that all have a list of allowed items, or all have none."""
    histories = [history for job in jobs for history in job.histories]
    users = [user for job in jobs for user in job.users or [None] * len(job.histories)]
    denied: list[list[str]] = []
    for job in jobs:
        pairs = zip(_each(job.deny or [], len(job.histories)), job.histories, strict=True)
        denied += [row + history if job.filter_seen else row for row, history in pairs]
    allowed = None
    if jobs[0].allow is not None:
        lists = [row for job in jobs for row in _each(job.allow or [], len(job.histories))]
        # One list a row instead of two: fewer sizes are compiled.
        allowed = [
            [item for item in row if item not in out]
            for row, out in zip(lists, map(set, denied), strict=True)
        ]
        denied = [[]] * len(histories)
    # Two values of k are compiled, not one for each.
    k = min(FEW, max_k) if all(job.k <= FEW for job in jobs) else max_k
    answers = recommender.recommend(
        histories, k, users=users, filter_seen=False, allow=allowed, deny=denied, titles=True
    )
    parts: list[list[Answer] | UserError] = []
    for job in jobs:
        own, answers = answers[: len(job.histories)], answers[len(job.histories) :]
        parts.append([one._replace(items=one.items[: job.k]) for one in own])
    return parts


def _each(lists: Lists, count: int) -> list[list[str]]:
    """A list for each history."""
    flat = [one for one in lists if isinstance(one, str)]
    nested = [one for one in lists if not isinstance(one, str)]
    return nested if nested else [flat] * count


class Batcher(Generic[Found]):
    """Collects requests for a moment and answers them together, one batch after another.

    Args:
        answer: answers a batch, in order; awaited by one task alone.
        most_rows: histories of a batch.
        wait: seconds for which the first request of a batch waits for others.
    """

    def __init__(
        self,
        answer: Callable[[list[Job]], Awaitable[Sequence[Found | Exception]]],
        most_rows: int,
        wait: float,
    ):
        self._answer = answer
        self._most_rows = most_rows
        self._wait = wait
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._next: _Waiting | None = None
        self._busy = False
        self._task: asyncio.Task | None = None

    def start(self) -> None:
        """Begins to answer; called inside the event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Answers what waits, then ends."""
        while self._busy or self._queue.qsize():
            await asyncio.sleep(0.01)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def ask(self, job: Job) -> Found:
        """One request's part of what `answer` gives.

        Raises:
            Exception: where that part is one, or `answer` raised it.
        """
        waiting = _Waiting(job, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return await waiting.answered

    async def _work(self) -> None:
        while True:
            self._busy = self._next is not None
            batch = await self._collect()
            self._busy = True
            # Those whose caller has given up are not computed.
            batch = [waiting for waiting in batch if not waiting.answered.done()]
            if batch:
                await self._serve(batch)

    async def _serve(self, batch: list[_Waiting]) -> None:
        found: Sequence[Found | Exception]
        try:
            found = await self._answer([waiting.job for waiting in batch])
        except Exception as error:
            found = [error] * len(batch)
        for waiting, one in zip(batch, found, strict=True):
            if waiting.answered.done():
                continue
            if isinstance(one, Exception):
                waiting.answered.set_exception(one)
            else:
                waiting.answered.set_result(one)

    async def _collect(self) -> list[_Waiting]:
        """The next batch: at least one request, at most `most_rows` histories."""
        first = self._next
        self._next = None
        if first is None:
            first = await self._queue.get()
            self._busy = True
            # Requests that came while the last batch was computed have waited long enough.
            if self._queue.empty() and self._wait > 0:
                await asyncio.sleep(self._wait)
        batch, rows = [first], len(first.job.histories)
        while not self._queue.empty():
            waiting = self._queue.get_nowait()
            rows += len(waiting.job.histories)
            if rows > self._most_rows:
                self._next = waiting
                break
            batch.append(waiting)
        return batch
